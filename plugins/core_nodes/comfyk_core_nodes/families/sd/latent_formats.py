"""What the latents of Stable Diffusion mean: see `latents.format`. The colours were fitted by the field."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, tensor

from comfyk_core_nodes.latents.format import LatentFormat


class SD15(LatentFormat):
    scale_factor = 0.18215
    latent_rgb_factors: ClassVar[list[list[float]] | None] = [
        [0.3512, 0.2297, 0.3227],
        [0.3250, 0.4974, 0.2350],
        [-0.2829, 0.1762, 0.2721],
        [-0.2120, -0.2616, -0.7177],
    ]
    taesd_decoder_name = "taesd_decoder"

    def __init__(self, scale_factor: float | None = None) -> None:
        if scale_factor is not None:
            self.scale_factor = scale_factor


class SDXL(LatentFormat):
    scale_factor = 0.13025
    latent_rgb_factors: ClassVar[list[list[float]] | None] = [
        [0.3651, 0.4232, 0.4341],
        [-0.2533, -0.0042, 0.1068],
        [0.1076, 0.1111, -0.0362],
        [-0.3165, -0.2492, -0.2188],
    ]
    latent_rgb_factors_bias: ClassVar[list[float] | None] = [0.1084, -0.0175, -0.0011]
    taesd_decoder_name = "taesdxl_decoder"


class SDXL_Playground_2_5(LatentFormat):
    """Playground v2.5: latents are centred and scaled by channel (Li et al. 2024, arXiv:2402.17245)."""

    scale_factor = 0.5
    latents_mean = (-1.6574, 1.886, -1.383, 2.5155)
    latents_std = (8.4927, 5.9022, 6.5498, 5.2299)
    latent_rgb_factors: ClassVar[list[list[float]] | None] = [
        [0.3920, 0.4054, 0.4549],
        [-0.2634, -0.0196, 0.0653],
        [0.0568, 0.1687, -0.0755],
        [-0.3112, -0.2359, -0.2076],
    ]
    taesd_decoder_name = "taesdxl_decoder"

    def process_in(self, latent: Tensor) -> Tensor:
        return (latent - _by_channel(self.latents_mean, latent)) * (
            self.scale_factor / _by_channel(self.latents_std, latent)
        )

    def process_out(self, latent: Tensor) -> Tensor:
        scale = _by_channel(self.latents_std, latent) / self.scale_factor
        return latent * scale + _by_channel(self.latents_mean, latent)


class SD_X4(LatentFormat):
    """The x4 upscaler, whose autoencoder has three levels."""

    scale_factor = 0.08333
    spacial_downscale_ratio = 4
    latent_rgb_factors: ClassVar[list[list[float]] | None] = [
        [-0.2340, -0.3863, -0.3257],
        [0.0994, 0.0885, -0.0908],
        [-0.2833, -0.2349, -0.3741],
        [0.2523, -0.0055, -0.1651],
    ]


def _by_channel(values: tuple[float, ...], latent: Tensor) -> Tensor:
    return tensor(values, dtype=latent.dtype, device=latent.device).view(1, -1, 1, 1)
