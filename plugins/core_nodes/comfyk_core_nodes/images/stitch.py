"""Putting two pictures side by side, and one into a frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfyk_core_nodes.images.resize import resize_images

if TYPE_CHECKING:
    from torch import Tensor

DIRECTIONS = ("right", "down", "left", "up")
COLORS = {
    "white": (1.0, 1.0, 1.0),
    "black": (0.0, 0.0, 0.0),
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
}


def stitch_images(
    image: Tensor, other: Tensor, direction: str, match_size: bool, spacing: int, color: str
) -> Tensor:
    """Put `other` to the `right` (`down`, `left`, `up`) of `image`, both `[B, H, W, C]`, with a gap between them.

    The smaller batch repeats its last picture, a missing alpha is 1. With `match_size` the other picture is
    scaled to the side that they share, otherwise the shorter one is centred on white when `color` is white and
    on black else. `spacing` is in pixels; an odd one is rounded up.
    """
    import torch

    sideways = direction in ("left", "right")
    batch = max(image.shape[0], other.shape[0])
    image, other = _repeat_last(image, batch), _repeat_last(other, batch)
    if match_size:
        other = _scale_to_side(other, image.shape[1] if sideways else image.shape[2], sideways)
    else:
        shared = 1 if sideways else 2
        length = max(image.shape[shared], other.shape[shared])
        value = 1.0 if color == "white" else 0.0
        image, other = (_center(one, shared, length, value) for one in (image, other))
    channels = max(image.shape[-1], other.shape[-1])
    image, other = (
        torch.nn.functional.pad(one, (0, channels - one.shape[-1]), value=1.0) for one in (image, other)
    )
    parts = [image, other] if direction in ("right", "down") else [other, image]
    if spacing > 0:
        spacing += spacing % 2
        size = (image.shape[1], spacing) if sideways else (spacing, image.shape[2])
        shade = torch.tensor([*COLORS[color], *[1.0] * channels][:channels]).to(image)
        parts.insert(1, shade.expand(batch, *size, channels))
    return torch.cat(parts, dim=2 if sideways else 1)


def _repeat_last(images: Tensor, batch: int) -> Tensor:
    import torch

    return torch.cat((images, images[-1:].expand(batch - images.shape[0], -1, -1, -1)))


def _scale_to_side(images: Tensor, side: int, is_height: bool) -> Tensor:
    aspect = images.shape[2] / images.shape[1]
    if is_height:
        return resize_images(images, max(1, int(side * aspect)), side, "lanczos")
    return resize_images(images, side, max(1, int(side / aspect)), "lanczos")


def _center(images: Tensor, dim: int, length: int, value: float) -> Tensor:
    """Lengthen dimension 1 (height) or 2 (width) at both ends; an odd pixel goes to the far one."""
    import torch

    missing = length - images.shape[dim]
    ends = (missing // 2, missing - missing // 2)
    return torch.nn.functional.pad(images, (0, 0, *([0, 0] if dim == 1 else []), *ends), value=value)


def resize_and_pad(images: Tensor, width: int, height: int, white: bool, method: str) -> Tensor:
    """Scale `[B, H, W, C]` to fit into `[B, height, width, C]`, in the middle of a white or black frame."""
    import torch

    old_height, old_width = images.shape[1:3]
    scale = min(width / old_width, height / old_height)
    inner = resize_images(images, max(1, int(old_width * scale)), max(1, int(old_height * scale)), method)
    frame = torch.full(
        (images.shape[0], height, width, images.shape[-1]), 1.0 if white else 0.0, dtype=images.dtype
    ).to(images.device)
    top, left = (height - inner.shape[1]) // 2, (width - inner.shape[2]) // 2
    frame[:, top : top + inner.shape[1], left : left + inner.shape[2]] = inner
    return frame
