"""`VAE`: an autoencoder with its device and memory, as nodes hold it. Pictures are `[B, H, W, 3]` from 0 to 1."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import comfyk
import torch
from torch import Tensor

from comfyk_core_nodes.devices.device import (
    CPU,
    device_of,
    intermediate_device,
    soft_empty_cache,
    vae_device,
    vae_offload_device,
)
from comfyk_core_nodes.devices.exhausted import exhausted
from comfyk_core_nodes.images.not_finite import PICTURE_ADVICE, warn_of_nan
from comfyk_core_nodes.images.overlapping_tiles import count_tiles, tiled_scale
from comfyk_core_nodes.memory.freeing import free_memory
from comfyk_core_nodes.memory.managed import managed
from comfyk_core_nodes.memory.manager import load_models_gpu
from comfyk_core_nodes.vae.autoencoder import AutoencoderKL, autoencoder_config
from comfyk_core_nodes.vae.layouts import vae_state
from comfyk_core_nodes.vae.taesd import TAESD
from comfyk_core_nodes.weights.assign import fill
from comfyk_core_nodes.weights.dtypes import intermediate_dtype, vae_dtype
from comfyk_core_nodes.weights.mapped_files import check_all_there
from comfyk_core_nodes.weights.norm_groups import norm_groups, normalize_in

log = logging.getLogger(__name__)

ENCODE_BYTES = 1767
DECODE_BYTES = 2178
"""Bytes of fp8 per pixel that a pass takes: measured by the field, for the autoencoder of Stable Diffusion."""
DECODE_TILE, DECODE_OVERLAP = 64, 16  # latent pixels
ENCODE_TILE, ENCODE_OVERLAP = 512, 64  # pixels


PIXELS = "pixel_space_vae"
"""The one weight of what leaves pictures as they are."""


class Pixels(torch.nn.Module):
    """Pictures `[B, 3, H, W]` from -1 to 1 in place of latents, for models that work on them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer(PIXELS, torch.tensor(1.0))

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor) -> Tensor:
        return z.clone()  # what comes after works in place


class VAE:
    """Built from a state dict in any layout. Raises ValueError where there is no autoencoder in it."""

    latent_dim = 2
    output_channels = 3

    def __init__(
        self,
        sd: Mapping[str, Tensor],
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        state = dict(sd) if PIXELS in sd else vae_state(sd)
        self.first_stage_model, self.latent_channels, self.downscale_ratio = _build(state)
        self.upscale_ratio = self.downscale_ratio
        normalize_in(self.first_stage_model, norm_groups(metadata))
        fill(self.first_stage_model, state, "the autoencoder")
        self.device = vae_device() if device is None else device
        self.vae_dtype = vae_dtype(self.device, (torch.bfloat16, torch.float32)) if dtype is None else dtype
        self.output_device = intermediate_device()
        # On the CPU its weights are used where they are: it runs too seldom for a copy to pay.
        kept = None if self.device == CPU else self.vae_dtype
        self.patcher = managed(
            self.first_stage_model, self.device, vae_offload_device(), kept, self.vae_dtype
        )

    def get_sd(self) -> dict[str, Tensor]:
        return dict(self.first_stage_model.state_dict())

    def spacial_compression_encode(self) -> int:
        return self.downscale_ratio

    def spacial_compression_decode(self) -> int:
        return self.upscale_ratio

    def memory_used_encode(self, shape: tuple[int, ...] | list[int], dtype: torch.dtype) -> int:
        """Bytes for one pass on pixels `[B, C, H, W]`."""
        return ENCODE_BYTES * shape[2] * shape[3] * dtype.itemsize

    def memory_used_decode(self, shape: tuple[int, ...] | list[int], dtype: torch.dtype) -> int:
        """Bytes for one pass on a latent `[B, C, h, w]`."""
        return DECODE_BYTES * shape[2] * shape[3] * self.upscale_ratio**2 * dtype.itemsize

    def vae_encode_crop_pixels(self, pixels: Tensor) -> Tensor:
        """Cut `[B, H, W, C]` around the middle to whole latent pixels, and to three channels.

        Raises ValueError for a picture that is smaller than a latent pixel, or that has fewer channels.
        """
        height, width, channels = pixels.shape[1:]
        least = self.downscale_ratio
        if min(height, width) < least:
            raise ValueError(
                f"the picture is {width}x{height}; at least {least}x{least} is needed: scale it up first"
            )
        if channels < self.output_channels:
            raise ValueError(
                f"the picture has {channels} channels; the VAE takes pictures of {self.output_channels}"
            )
        for dim in (1, 2):
            size = pixels.shape[dim]
            kept = size // self.downscale_ratio * self.downscale_ratio
            pixels = pixels.narrow(dim, (size % self.downscale_ratio) // 2, kept)
        return pixels[..., : self.output_channels]

    def decode(self, samples_in: Tensor, vae_options: Mapping[str, Any] | None = None) -> Tensor:
        """`[B, 4, h, w]` to `[B, 8h, 8w, 3]` from 0 to 1. Where the memory does not do, in tiles, with a warning.

        Raises ValueError for a latent of another shape.
        """
        self._check_latent(samples_in)
        batch = self._load(self.memory_used_decode(samples_in.shape, self.vae_dtype))
        try:
            pixels = torch.cat([self._decode(part) for part in samples_in.split(batch)])
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if exhausted(error) is None:
                raise
            pixels = None
        # Outside the handler: what the failed pass held is held by the error.
        if pixels is None:
            log.warning("Out of memory while decoding the picture; it is decoded again in tiles")
            _make_room()
            return self.decode_tiled(samples_in)
        warn_of_nan(pixels, "the picture", PICTURE_ADVICE)
        return pixels.movedim(1, -1)

    def encode(self, pixel_samples: Tensor) -> Tensor:
        """`[B, H, W, 3]` from 0 to 1 to `[B, 4, H/8, W/8]`. Where the memory does not do, in tiles, with a warning."""
        pixels = self.vae_encode_crop_pixels(pixel_samples).movedim(-1, 1)
        batch = self._load(self.memory_used_encode(pixels.shape, self.vae_dtype))
        try:
            latent = torch.cat([self._encode(part) for part in pixels.split(batch)])
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if exhausted(error) is None:
                raise
            latent = None
        if latent is None:
            log.warning("Out of memory while encoding the picture; it is encoded again in tiles")
            _make_room()
            return self.encode_tiled(pixel_samples)
        return latent

    def decode_tiled(
        self,
        samples: Tensor,
        tile_x: int = DECODE_TILE,
        tile_y: int = DECODE_TILE,
        overlap: int = DECODE_OVERLAP,
        **_: Any,
    ) -> Tensor:
        """As `decode`, in tiles of latent pixels: the average of square, tall and wide ones."""
        self._check_latent(samples)
        tiles = ((tile_y * 2, tile_x // 2), (tile_y // 2, tile_x * 2), (tile_y, tile_x))
        self._load(self.memory_used_decode([1, 1, tile_y, tile_x], self.vae_dtype))
        pixels = self._tiled(
            samples, self._decode_raw, tiles, overlap, self.upscale_ratio, self.output_channels
        )
        warn_of_nan(pixels, "the picture", PICTURE_ADVICE)
        return _to_picture(pixels).to(intermediate_dtype()).movedim(1, -1)

    def encode_tiled(
        self,
        pixel_samples: Tensor,
        tile_x: int = ENCODE_TILE,
        tile_y: int = ENCODE_TILE,
        overlap: int = ENCODE_OVERLAP,
        **_: Any,
    ) -> Tensor:
        """As `encode`, in tiles of pixels: the average of square, wide and tall ones."""
        pixels = self.vae_encode_crop_pixels(pixel_samples).movedim(-1, 1)
        tiles = ((tile_y, tile_x), (tile_y // 2, tile_x * 2), (tile_y * 2, tile_x // 2))
        self._load(self.memory_used_encode([1, 1, tile_y, tile_x], self.vae_dtype))
        latent = self._tiled(
            pixels, self._encode, tiles, overlap, 1 / self.downscale_ratio, self.latent_channels
        )
        return latent.to(intermediate_dtype())

    def _check_latent(self, samples: Tensor) -> None:
        if samples.ndim != 4 or samples.shape[1] != self.latent_channels:
            raise ValueError(
                f"the latent is of the shape {list(samples.shape)}; this VAE decodes latents "
                f"[batch, {self.latent_channels}, height, width]: use the VAE of the model that made it"
            )

    def _load(self, memory: int) -> int:
        """Put the autoencoder on its device. Returns how many pictures fit there at once."""
        load_models_gpu([self.patcher], memory_required=memory)
        return max(1, device_of(self.device).free() // max(1, memory))

    def _decode_raw(self, latent: Tensor) -> Tensor:
        latent = latent.to(device=self.device, dtype=self.vae_dtype)
        pixels = self.first_stage_model.decode(latent).to(self.output_device, intermediate_dtype())
        check_all_there()
        return pixels

    def _decode(self, latent: Tensor) -> Tensor:
        comfyk.check_interrupted()
        return _to_picture(self._decode_raw(latent))

    def _encode(self, pixels: Tensor) -> Tensor:
        comfyk.check_interrupted()
        pixels = (pixels * 2.0 - 1.0).to(device=self.device, dtype=self.vae_dtype)
        latent = self.first_stage_model.encode(pixels).to(self.output_device, intermediate_dtype())
        check_all_there()
        return latent

    def _tiled(
        self,
        samples: Tensor,
        function: Callable[[Tensor], Tensor],
        tiles: tuple[tuple[int, int], ...],
        overlap: int,
        scale: float,
        channels: int,
    ) -> Tensor:
        """The average of `function` over three shapes of tiles, so that seams fall in different places."""
        height, width = samples.shape[-2:]
        total = samples.shape[0] * sum(count_tiles(height, width, y, x, overlap) for y, x in tiles)
        done = 0

        def on_tile() -> None:
            nonlocal done
            done += 1
            comfyk.progress(done, total)

        parts = (
            tiled_scale(samples, function, x, y, overlap, scale, channels, self.output_device, on_tile)
            for y, x in tiles
        )
        result = next(parts)
        for part in parts:
            result += part
        return result / len(tiles)


def _to_picture(pixels: Tensor) -> Tensor:
    """From -1..1 to 0..1, in place."""
    return pixels.add_(1.0).div_(2.0).clamp_(0.0, 1.0)


def _make_room() -> None:
    """Take all models off the devices, this one too: what was thought to be enough was not."""
    free_memory(unload_models=True)
    soft_empty_cache()


def _build(state: Mapping[str, Tensor]) -> tuple[AutoencoderKL | TAESD | Pixels, int, int]:
    """The network for these weights (without them), the latent's channels, and pixels to a latent pixel."""
    if PIXELS in state:
        return Pixels(), 3, 1
    if "taesd_decoder.1.weight" in state:
        channels = state["taesd_decoder.1.weight"].shape[1]
        return TAESD(channels, device="meta"), channels, 8
    config = autoencoder_config(state)
    if config is None:
        raise ValueError("there is no autoencoder in it (no encoder.conv_in and decoder.mid.attn_1)")
    ratio = 2 ** (len(config["decoder"]["ch_mult"]) - 1)
    channels = config["embed_dim"] or config["decoder"]["z_channels"]
    return AutoencoderKL(**config, device="meta"), channels, ratio
