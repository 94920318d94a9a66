"""As many pictures, latents or other values as a batch has. Importing this imports no torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def repeat_to_batch(tensor: Tensor, batch_size: int) -> Tensor:
    """`tensor` with `batch_size` items: the first ones, or all over and over."""
    if tensor.shape[0] == batch_size:
        return tensor
    repeats = math.ceil(batch_size / tensor.shape[0])
    return tensor.repeat(repeats, *[1] * (tensor.ndim - 1))[:batch_size]


def spread_over_batch(tensor: Tensor, batch: int) -> Tensor:
    """`batch` items of `tensor`: each as often as the others when it has fewer, evenly picked when it has more."""
    have = tensor.shape[0]
    if have == batch:
        return tensor
    if batch <= 1:
        return tensor[:batch]
    if batch < have:
        step = (have - 1) / (batch - 1)
        picks = [min(round(i * step), have - 1) for i in range(batch)]
    else:
        picks = [min(int((i + 0.5) * have / batch), have - 1) for i in range(batch)]
    return tensor[picks]
