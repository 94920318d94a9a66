"""Resizing pictures to a given size, with the methods that workflows name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfyk_core_nodes.images.pixels import to_bytes, to_picture

if TYPE_CHECKING:
    from torch import Tensor

METHODS = ("nearest-exact", "bilinear", "area", "bicubic", "lanczos")
CROPS = ("disabled", "center")


def resize_images(images: Tensor, width: int, height: int, method: str, crop: str = "disabled") -> Tensor:
    """Resize `[B, H, W, C]` to `[B, height, width, C]`, all sizes in pixels and at least 1.

    `method` is one of METHODS. `lanczos` computes in 8 bits with Pillow; the others are torch's interpolation
    without antialiasing, and `bicubic` may overshoot 0..1. With `crop="center"` the picture is first cut to
    the new aspect around its middle.
    """
    import torch

    if crop == "center":
        images = _crop_to_aspect(images, width, height)
    if method == "lanczos":
        return _lanczos(images, width, height)
    channels_first = images.movedim(-1, 1)
    return torch.nn.functional.interpolate(channels_first, size=(height, width), mode=method).movedim(1, -1)


def fit_size(old_width: int, old_height: int, width: int, height: int) -> tuple[int, int]:
    """`(width, height)`, where a 0 stands for what keeps the aspect; two zeros keep the old size."""
    if width == 0 and height == 0:
        return old_width, old_height
    if width == 0:
        return max(1, round(old_width * height / old_height)), height
    if height == 0:
        return width, max(1, round(old_height * width / old_width))
    return width, height


def _crop_to_aspect(images: Tensor, width: int, height: int) -> Tensor:
    old_height, old_width = images.shape[1:3]
    old_aspect = old_width / old_height
    aspect = width / height
    x = y = 0
    # Half of what is cut away is rounded, not the size that stays: ComfyUI's results depend on it.
    if old_aspect > aspect:
        x = round((old_width - old_width * (aspect / old_aspect)) / 2)
    elif old_aspect < aspect:
        y = round((old_height - old_height * (old_aspect / aspect)) / 2)
    # A long picture cut to a very different aspect keeps at least one line.
    x = min(x, (old_width - 1) // 2)
    y = min(y, (old_height - 1) // 2)
    return images[:, y : old_height - y, x : old_width - x, :]


def _lanczos(images: Tensor, width: int, height: int) -> Tensor:
    import numpy as np
    import torch
    from PIL import Image

    resized = np.empty((images.shape[0], height, width, images.shape[-1]), np.float32)
    for pixels, out in zip(to_bytes(images), resized, strict=True):
        picture = to_picture(pixels).resize((width, height), Image.Resampling.LANCZOS)
        np.divide(np.asarray(picture).reshape(out.shape), np.float32(255), out=out, dtype=np.float32)
    return torch.from_numpy(resized).to(images.device, images.dtype)
