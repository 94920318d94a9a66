"""Pictures that are given to a model next to the latent, as large and as many as it."""

from __future__ import annotations

from torch import Tensor

from comfyk_core_nodes.images.batch import spread_over_batch
from comfyk_core_nodes.images.resize import resize_images


def fit_to(tensor: Tensor, noise: Tensor, rounded: bool = False) -> Tensor:
    """`tensor` `[B', C, h, w]` as large as `noise` (cut to its aspect) and as many: spread over the batch."""
    height, width = noise.shape[-2:]
    if tensor.shape[-2:] != noise.shape[-2:]:
        tensor = resize_images(tensor.movedim(1, -1), width, height, "bilinear", "center").movedim(-1, 1)
    return spread_over_batch(tensor.round() if rounded else tensor, noise.shape[0])
