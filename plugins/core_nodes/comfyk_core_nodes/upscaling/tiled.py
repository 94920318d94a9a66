"""Enlarging pictures of any size in tiles that overlap, as large as the memory allows."""

from __future__ import annotations

import logging

import comfyk
import torch
from torch import Tensor

from comfyk_core_nodes.devices.device import device_of, intermediate_device
from comfyk_core_nodes.devices.exhausted import exhausted
from comfyk_core_nodes.images.overlapping_tiles import count_tiles, tiled_scale
from comfyk_core_nodes.memory.manager import load_models_gpu
from comfyk_core_nodes.upscaling.load import UpscaleModel
from comfyk_core_nodes.weights.dtypes import intermediate_dtype
from comfyk_core_nodes.weights.mapped_files import check_all_there

log = logging.getLogger(__name__)

TILE = 512
OVERLAP = 32
SMALLEST_TILE = 128
"""Pixels."""
_BYTES_PER_VALUE = 384
"""Bytes of working memory for each value of a tile, at a scale of 1: what the hungry ones of these models take."""


def upscale_tiled(model: UpscaleModel, image: Tensor, tile: int = TILE, overlap: int = OVERLAP) -> Tensor:
    """`[B, H, W, C]` to `[B, H * scale, W * scale, C']`, from 0 to 1. Progress goes to the running node.

    When the memory runs out, it is begun again with tiles half as large, down to `SMALLEST_TILE`.
    Raises `comfyk.context.Interrupted` between two tiles when the job was asked to stop.
    """
    device = model.patcher.load_device
    pixels = image[..., : model.input_channels].movedim(-1, 1)
    if pixels.shape[1] < model.input_channels:
        raise ValueError(
            f"this upscale model takes pictures of {model.input_channels} channels, not of {pixels.shape[1]}"
        )
    while True:
        values = min(tile, image.shape[1]) * min(tile, image.shape[2]) * pixels.shape[1]
        memory = int(values * pixels.element_size() * max(model.scale, 1) * _BYTES_PER_VALUE) + pixels.nbytes
        try:
            load_models_gpu([model.patcher], memory_required=memory, force_full_load=True)
            return _upscale(model, pixels, tile, overlap, device)
        except (MemoryError, RuntimeError) as error:
            if exhausted(error) is None or tile // 2 < SMALLEST_TILE:
                raise
            log.warning("Out of memory while enlarging in tiles of %d pixels; trying %d", tile, tile // 2)
        # Outside the handler: what the failed pass held is held by the error.
        tile //= 2
        device_of(device).empty_cache()


def _upscale(model: UpscaleModel, pixels: Tensor, tile: int, overlap: int, device: torch.device) -> Tensor:
    height, width = pixels.shape[-2:]
    total = pixels.shape[0] * count_tiles(height, width, tile, tile, overlap)
    done = 0

    def on_tile() -> None:
        nonlocal done
        done += 1
        comfyk.progress(done, total)

    comfyk.check_interrupted()
    result = tiled_scale(
        pixels,
        lambda part: model(part.to(device).float()),
        tile,
        tile,
        overlap,
        model.scale,
        model.output_channels,
        intermediate_device(),
        on_tile,
    )
    check_all_there()
    return result.movedim(1, -1).clamp_(0, 1).to(intermediate_dtype())
