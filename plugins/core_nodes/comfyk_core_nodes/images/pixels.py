"""Pictures as tensors (`[B, H, W, C]` floats in 0..1) and as bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfyk_core_nodes.images.not_finite import SAVED_ADVICE, warn_of_nan

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor


def to_bytes(images: Tensor) -> np.ndarray:
    """`[B, H, W, C]` floats in 0..1 as bytes; fractions are cut off, not rounded, as in ComfyUI's files."""
    import torch

    warn_of_nan(images, "the picture", SAVED_ADVICE)
    return images.detach().float().mul(255).clamp_(0, 255).to(torch.uint8).cpu().numpy()


def to_picture(pixels: np.ndarray) -> Image.Image:
    """A picture from bytes `[H, W, C]`: grey, RGB or RGBA. Raises ValueError for other channels."""
    from PIL import Image

    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"expected a picture [H, W, C] with 1, 3 or 4 channels, not of shape {list(pixels.shape)}"
        )
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
