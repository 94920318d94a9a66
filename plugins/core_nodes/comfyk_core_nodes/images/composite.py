"""Laying one picture or latent over another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfyk_core_nodes.images.masks import as_masks
from comfyk_core_nodes.images.resize import resize

if TYPE_CHECKING:
    from torch import Tensor


def composite(
    destination: Tensor,
    source: Tensor,
    x: int,
    y: int,
    mask: Tensor | None = None,
    *,
    pixels_per_element: int = 1,
    resize_source: bool = False,
) -> Tensor:
    """`destination` `[B, C, ..., H, W]` with `source` `[B', C, ..., h, w]` over it, its top left at `x`, `y`.

    `x` and `y` are in pixels, 0 or more; what lies beyond the destination is left out. `mask`, any leading
    dimensions and of any size, is stretched over the source: 1 shows it, 0 what is below. Batches of other sizes
    are repeated or cut. With `resize_source` the source first gets the size of the destination.
    """
    from comfyk_core_nodes.images.batch import repeat_to_batch

    height, width = destination.shape[-2:]
    source = source.to(destination.device)
    if resize_source:
        source = resize(source, width, height, "bilinear")
    source = repeat_to_batch(source, destination.shape[0])
    left, top = x // pixels_per_element, y // pixels_per_element
    result = destination.clone()
    below = result[..., top : top + source.shape[-2], left : left + source.shape[-1]]
    rows, columns = below.shape[-2:]
    above = source[..., :rows, :columns]
    if mask is not None and below.numel():
        shown = as_masks(mask).unsqueeze(1).to(source.device)
        shown = repeat_to_batch(
            resize(shown, source.shape[-1], source.shape[-2], "bilinear"), source.shape[0]
        )
        shown = shown[..., :rows, :columns].reshape(-1, *[1] * (source.ndim - 3), rows, columns)
        above = shown * above + (1 - shown) * below
    below.copy_(above)
    return result


def with_channels_of(destination: Tensor, source: Tensor) -> Tensor:
    """`source` `[B, H, W, C]` with as many channels as `destination`: more are cut off, an added alpha is 1."""
    import torch

    missing = destination.shape[-1] - source.shape[-1]
    # A negative padding cuts.
    return torch.nn.functional.pad(source, (0, missing), value=1.0)
