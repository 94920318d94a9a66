"""Cutting pictures into overlapping tiles, and putting them together again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_LEAST_WEIGHT = 1e-5
"""Of the outermost pixels of a tile, so that a pixel in one tile only is that tile's."""


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along a side. They advance by at least a quarter of a tile; the last ends at the edge."""
    stride = max(1, round(max(tile * 0.25, tile - overlap)))
    count = 1 + max(0, math.ceil((length - tile) / stride))
    return [min(number * stride, max(0, length - tile)) for number in range(count)]


def tile_corners(
    width: int, height: int, tile_width: int, tile_height: int, overlap: int
) -> list[tuple[int, int]]:
    """`(left, top)` of each tile, row by row, in pixels."""
    columns = _starts(width, tile_width, overlap)
    return [(left, top) for top in _starts(height, tile_height, overlap) for left in columns]


def split_into_tiles(image: Tensor, tile_width: int, tile_height: int, overlap: int) -> list[Tensor]:
    """Views `[B, tile_height, tile_width, C]` of `[B, H, W, C]`; a smaller picture is one tile."""
    height, width = image.shape[1:3]
    return [
        image[:, top : top + tile_height, left : left + tile_width]
        for left, top in tile_corners(width, height, tile_width, tile_height, overlap)
    ]


def merge_tiles(tiles: Sequence[Tensor], width: int, height: int, overlap: int) -> Tensor:
    """`[B, height, width, C]` from tiles in the order of `tile_corners`; the first one gives their size.

    Where tiles overlap they are averaged with weights `sin(pi u) sin(pi v)`, `u` and `v` in 0..1 across the tile.
    Tiles that are missing at the end leave black.
    """
    import torch

    first = tiles[0]
    batch, tile_height, tile_width, channels = first.shape
    if overlap > 0:
        down, across = (
            torch.sin(math.pi * torch.linspace(0, 1, size, device=first.device)).clamp_min(_LEAST_WEIGHT)
            for size in (tile_height, tile_width)
        )
        weight = (down[:, None] * across)[..., None]
    else:
        weight = torch.ones((tile_height, tile_width, 1), device=first.device)
    canvas = torch.zeros((batch, height, width, channels), device=first.device)
    total = torch.zeros((1, height, width, 1), device=first.device)
    corners = tile_corners(width, height, tile_width, tile_height, overlap)
    for tile, (left, top) in zip(tiles, corners, strict=False):
        bottom = min(top + tile_height, height, top + tile.shape[1])
        right = min(left + tile_width, width, left + tile.shape[2])
        rows, columns = bottom - top, right - left
        part = weight[:rows, :columns]
        canvas[:, top:bottom, left:right] += tile[:, :rows, :columns].to(first.device) * part
        total[:, top:bottom, left:right] += part
    return canvas.div_(total.masked_fill_(total == 0, 1.0)).to(first.dtype)
