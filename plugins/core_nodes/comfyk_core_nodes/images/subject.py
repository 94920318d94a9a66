"""Cutting out what a mask selects, for models that want one subject in the middle of a plain background."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from comfyk_core_nodes.images.masks import grow_mask
from comfyk_core_nodes.images.resize import resize_images

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

_NOISE = 0.05
"""Values of a mask below this count as 0."""
_SUBJECT = 204
"""Of 255: what is above belongs to the subject when its bounds are looked for."""


@dataclass(frozen=True, slots=True)
class _Box:
    left: int
    top: int
    right: int
    bottom: int


def crop_to_mask(
    image: Tensor, mask: Tensor, width: int, height: int, *, margin: float, grow: int, background: Tensor
) -> Tensor:
    """The subject of `image` `[H, W, 3]` on a plain background, `[height, width, 3]`.

    `mask` `[H, W]` selects the subject; one that selects the border and not the middle is taken for an inverted
    one. It is grown by `grow` pixels. The bounds of the subject are widened to the aspect of the result and
    multiplied by `margin`, and what of them lies beyond the picture is background. `background` is `[3]` in 0..1.
    """
    import torch

    image, mask = image.float().clamp(0, 1), mask.float().clamp(0, 1)
    if _is_inverted(mask):
        mask = 1 - mask
    mask = grow_mask(mask.unsqueeze(0), grow, tapered_corners=False).squeeze(0)
    mask = torch.where(mask < _NOISE, 0.0, mask)
    image, mask = _shrink(image, mask, max(width, height))
    box, is_inverted = _find_subject(mask, width / height, margin)
    if is_inverted:
        mask = 1 - mask
    image, shown = _cut(image, box), _cut(mask.unsqueeze(-1), box)
    subject = (image * shown + background.to(image) * (1 - shown)).clamp(0, 1)
    return resize_images(subject.unsqueeze(0), width, height, "lanczos").squeeze(0)


def _is_inverted(mask: Tensor) -> bool:
    import torch

    height, width = mask.shape
    border = torch.cat((mask[0], mask[-1], mask[:, 0], mask[:, -1]))
    middle = mask[height // 4 : height - height // 4, width // 4 : width - width // 4]
    return bool(border.mean() > 0.5) and bool(middle.mean() < 0.5)


def _shrink(image: Tensor, mask: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """Scale a picture and its mask down so that no side is longer than `longest` pixels."""
    height, width = mask.shape
    if max(height, width) <= longest:
        return image, mask
    scale = longest / max(height, width)
    size = max(1, int(width * scale)), max(1, int(height * scale))
    image = resize_images(image.unsqueeze(0), *size, "lanczos").squeeze(0)
    return image, resize_images(mask[None, ..., None], *size, "lanczos")[0, ..., 0]


def _find_subject(mask: Tensor, aspect: float, margin: float) -> tuple[_Box, bool]:
    """The bounds of what is selected, else of what is left out, else of the whole; and whether it is left out."""
    import torch

    selected = (mask * 255).to(torch.uint8)
    for values, is_inverted in ((selected, False), (255 - selected, True)):
        rows, columns = torch.nonzero(values > _SUBJECT, as_tuple=True)
        if len(rows):
            return _bounds(rows, columns, aspect, margin), is_inverted
    log.warning("a mask selects nothing; the whole picture is used")
    return _Box(0, 0, mask.shape[1], mask.shape[0]), False


def _bounds(rows: Tensor, columns: Tensor, aspect: float, margin: float) -> _Box:
    """Around these pixels, in the aspect and with the margin; it may reach beyond the picture."""
    top, bottom = int(rows.min()), int(rows.max())
    left, right = int(columns.min()), int(columns.max())
    width, height = right - left + 1, bottom - top + 1
    if width / height >= aspect:
        size = int(width * margin), int(width / aspect * margin)
    else:
        size = int(height * aspect * margin), int(height * margin)
    half_width, half_height = (max(1, math.ceil(side / 2)) for side in size)
    left = int((left + right) / 2 - half_width)
    top = int((top + bottom) / 2 - half_height)
    return _Box(left, top, left + 2 * half_width, top + 2 * half_height)


def _cut(image: Tensor, box: _Box) -> Tensor:
    """The part `[h, w, C]` of `[H, W, C]`; 0 beyond it."""
    import torch

    height, width = image.shape[:2]
    # A negative padding cuts.
    return torch.nn.functional.pad(
        image, (0, 0, -box.left, box.right - width, -box.top, box.bottom - height), value=0.0
    )
