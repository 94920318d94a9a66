"""The canvas and the mask for painting beyond the edges of a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

GREY = 0.5


def pad_for_outpaint(
    images: Tensor, left: int, top: int, right: int, bottom: int, feathering: int
) -> tuple[Tensor, Tensor]:
    """Put `[B, H, W, C]` on a grey canvas with borders of these widths in pixels.

    Returns the canvas `[B, top+H+bottom, left+W+right, C]` and the mask `[1, ...]` of what is to be painted:
    1 in the borders, and inside of the picture `((f - d) / f)^2` at a distance `d < f` from a padded edge,
    where `f` is `feathering`. A picture too small for the feathering on both sides gets none.
    """
    import torch

    batch, height, width, channels = images.shape
    size = (top + height + bottom, left + width + right)
    canvas = torch.full((batch, *size, channels), GREY, dtype=torch.float32)
    canvas[:, top : top + height, left : left + width, :] = images
    mask = torch.ones((1, *size), dtype=torch.float32)
    mask[:, top : top + height, left : left + width] = _soft_edge(
        height, width, (left > 0, top > 0, right > 0, bottom > 0), feathering
    )
    return canvas, mask


def _soft_edge(height: int, width: int, padded: tuple[bool, bool, bool, bool], feathering: int) -> Tensor:
    import torch

    if feathering <= 0 or feathering * 2 >= min(height, width):
        return torch.zeros((height, width))
    left, top, right, bottom = padded
    rows = torch.arange(height, dtype=torch.float64)
    columns = torch.arange(width, dtype=torch.float64)
    # The last row is one pixel away from its edge, the first one none: so it is in ComfyUI.
    far = torch.tensor(float(feathering), dtype=torch.float64)
    down = torch.minimum(rows if top else far, height - rows if bottom else far)
    across = torch.minimum(columns if left else far, width - columns if right else far)
    distance = torch.minimum(down.expand(height)[:, None], across.expand(width)[None, :])
    return ((feathering - distance).clamp_min(0) / feathering).square().float()
