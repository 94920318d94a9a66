"""Resizing pictures and latents to a given size, with the methods that workflows name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfyk_core_nodes.images.pixels import to_bytes, to_picture

if TYPE_CHECKING:
    from torch import Tensor

METHODS = ("nearest-exact", "bilinear", "area", "bicubic", "lanczos")
LATENT_METHODS = ("nearest-exact", "bilinear", "area", "bicubic", "bislerp")
CROPS = ("disabled", "center")
_PARALLEL = 1e-5
"""How near to 1 the cosine of an angle is where the sine is too small to divide by."""


def resize_images(images: Tensor, width: int, height: int, method: str, crop: str = "disabled") -> Tensor:
    """Resize `[B, H, W, C]` to `[B, height, width, C]`, as `resize` does."""
    return resize(images.movedim(-1, 1), width, height, method, crop).movedim(1, -1)


def resize(tensor: Tensor, width: int, height: int, method: str, crop: str = "disabled") -> Tensor:
    """Resize `[B, C, ..., H, W]` to `[B, C, ..., height, width]`, sizes in elements and at least 1.

    `method` is one of METHODS or LATENT_METHODS. `lanczos` computes in 8 bits with Pillow, `bislerp` turns and
    stretches the vectors of channels; the others are torch's interpolation without antialiasing, and `bicubic`
    may overshoot. With `crop="center"` the picture is first cut to the new aspect around its middle.
    """
    import torch

    if tensor.ndim > 4:  # frames of a video are pictures of their own
        frames = tensor.flatten(2, -3).movedim(2, 1)
        resized = resize(frames.flatten(0, 1), width, height, method, crop)
        resized = resized.unflatten(0, frames.shape[:2]).movedim(1, 2)
        return resized.reshape(*tensor.shape[:-2], height, width)
    if crop == "center":
        tensor = _crop_to_aspect(tensor, width, height)
    if method == "lanczos":
        return _lanczos(tensor.movedim(1, -1), width, height).movedim(-1, 1)
    if method == "bislerp":
        return bislerp(tensor, width, height)
    return torch.nn.functional.interpolate(tensor, size=(height, width), mode=method)


def bislerp(tensor: Tensor, width: int, height: int) -> Tensor:
    """Resize `[B, C, H, W]` by spherical interpolation of the vectors of channels, first across, then down.

    Where bilinear interpolation shortens vectors that point in different directions, and so takes contrast from
    a latent, here the direction turns at an even pace (Shoemake 1985, "Animating Rotation with Quaternion
    Curves") and the length changes linearly.
    """
    across = _slerp_along(tensor.float(), width, -1)
    return _slerp_along(across, height, -2).to(tensor.dtype)


def _slerp_along(tensor: Tensor, length: int, dim: int) -> Tensor:
    import torch

    old = torch.arange(tensor.shape[dim], dtype=torch.float32, device=tensor.device)
    # Pixel centres as bilinear interpolation has them, rounding errors included.
    positions, after = (
        torch.nn.functional.interpolate(
            index.reshape(1, 1, 1, -1), size=(1, length), mode="bilinear"
        ).flatten()
        for index in (old, (old + 1).clamp_max(tensor.shape[dim] - 1))
    )
    shape = [1, 1, 1, 1]
    shape[dim] = length
    return _slerp(
        tensor.index_select(dim, positions.long()),
        tensor.index_select(dim, after.long()),
        (positions - positions.floor()).reshape(shape),
    )


def _slerp(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    """Between vectors along dimension 1, `t` in 0..1. Equal directions give `start`, opposite ones a line."""
    import torch

    start_length = torch.linalg.vector_norm(start, dim=1, keepdim=True)
    end_length = torch.linalg.vector_norm(end, dim=1, keepdim=True)
    # A vector of length 0 has no direction and adds nothing.
    start_unit = torch.where(start_length == 0, 0.0, start / start_length)
    end_unit = torch.where(end_length == 0, 0.0, end / end_length)
    cosine = (start_unit * end_unit).sum(1, keepdim=True)
    angle = torch.acos(cosine)
    sine = torch.sin(angle)
    turned = torch.sin((1 - t) * angle) / sine * start_unit + torch.sin(t * angle) / sine * end_unit
    turned = turned * (start_length * (1 - t) + end_length * t)
    turned = torch.where(cosine > 1 - _PARALLEL, start, turned)
    return torch.where(cosine < _PARALLEL - 1, start * (1 - t) + end * t, turned)


def fit_size(old_width: int, old_height: int, width: int, height: int) -> tuple[int, int]:
    """`(width, height)`, where a 0 stands for what keeps the aspect; two zeros keep the old size."""
    if width == 0 and height == 0:
        return old_width, old_height
    if width == 0:
        return max(1, round(old_width * height / old_height)), height
    if height == 0:
        return width, max(1, round(old_height * width / old_width))
    return width, height


def _crop_to_aspect(tensor: Tensor, width: int, height: int) -> Tensor:
    old_height, old_width = tensor.shape[-2:]
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
    return tensor[..., y : old_height - y, x : old_width - x]


def _lanczos(images: Tensor, width: int, height: int) -> Tensor:
    import numpy as np
    import torch
    from PIL import Image

    resized = np.empty((images.shape[0], height, width, images.shape[-1]), np.float32)
    for pixels, out in zip(to_bytes(images), resized, strict=True):
        picture = to_picture(pixels).resize((width, height), Image.Resampling.LANCZOS)
        np.divide(np.asarray(picture).reshape(out.shape), np.float32(255), out=out, dtype=np.float32)
    return torch.from_numpy(resized).to(images.device, images.dtype)
