"""Working on a picture or latent in overlapping tiles, for what would not fit the memory whole."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where the tiles of one dimension start. The last one may be shorter than `tile`."""
    if length <= tile:
        return [0]
    overlap = min(overlap, tile - 1)
    return list(range(0, length - overlap, tile - overlap))


def count_tiles(height: int, width: int, tile_y: int, tile_x: int, overlap: int) -> int:
    return len(tile_starts(height, tile_y, overlap)) * len(tile_starts(width, tile_x, overlap))


def tiled_scale(
    samples: Tensor,
    function: Callable[[Tensor], Tensor],
    tile_x: int = 64,
    tile_y: int = 64,
    overlap: int = 8,
    upscale_amount: float = 4,
    out_channels: int = 3,
    output_device: torch.device | str = "cpu",
    on_tile: Callable[[], None] | None = None,
) -> Tensor:
    """`function` over tiles of `samples` `[B, C, H, W]`: `[B, out_channels, H * upscale, W * upscale]` in float32.

    Where tiles overlap their results are averaged, each weighted by a ramp that falls off linearly over `overlap`
    (in input pixels) towards all four edges. `on_tile` is called after each tile.
    """
    batch, _, height, width = samples.shape
    scale = upscale_amount
    feather = round(overlap * scale)
    output = torch.empty(
        [batch, out_channels, round(height * scale), round(width * scale)],
        dtype=torch.float32,
        device=output_device,
    )
    starts = list(
        itertools.product(tile_starts(height, tile_y, overlap), tile_starts(width, tile_x, overlap))
    )
    for index in range(batch):
        if len(starts) == 1:
            output[index : index + 1] = function(samples[index : index + 1])
            if on_tile is not None:
                on_tile()
            continue
        total = output[index].zero_()
        weights = torch.zeros_like(total[:1])
        for y, x in starts:
            part = function(samples[index : index + 1, :, y : y + tile_y, x : x + tile_x])[0].to(total)
            top, left = round(y * scale), round(x * scale)
            target = total[:, top : top + part.shape[1], left : left + part.shape[2]]
            part = part[:, : target.shape[1], : target.shape[2]]
            mask = _ramp(part.shape[1], feather, total)[:, None] * _ramp(part.shape[2], feather, total)
            target += part * mask
            weights[:, top : top + part.shape[1], left : left + part.shape[2]] += mask
            if on_tile is not None:
                on_tile()
        total /= weights
    return output


def _ramp(length: int, feather: int, like: Tensor) -> Tensor:
    """Weights along one dimension: rising over the first `feather` pixels, falling over the last."""
    ramp = torch.ones(length, device=like.device, dtype=like.dtype)
    if feather < length:
        rise = torch.arange(1, feather + 1, device=like.device, dtype=like.dtype) / max(1, feather)
        ramp[:feather] *= rise
        ramp[length - feather :] *= rise.flip(0)
    return ramp
