"""What the latents of each family mean: their scale, and what their channels look like as colours.

A sampler works on latents of about unit variance (`process_in` of what the autoencoder gives, `process_out` back).
`latent_rgb_factors` `[channels, 3]` and the bias map a latent to RGB from -1 to 1, for quick previews. The scale
factors are those of the models' own configurations; the colours were fitted by the field to decoded pictures.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, tensor


class LatentFormat:
    scale_factor: float = 1.0
    latent_channels = 4
    latent_dimensions = 2
    spacial_downscale_ratio = 8
    latent_rgb_factors: ClassVar[list[list[float]] | None] = None
    latent_rgb_factors_bias: ClassVar[list[float] | None] = None
    taesd_decoder_name: str | None = None
    """The start of the name of the file in `vae_approx` that has the preview decoder."""

    def process_in(self, latent: Tensor) -> Tensor:
        """From the autoencoder's latent to the model's."""
        return latent * self.scale_factor

    def process_out(self, latent: Tensor) -> Tensor:
        """From the model's latent to the autoencoder's."""
        return latent / self.scale_factor

    def to_rgb(self, latent: Tensor) -> Tensor | None:
        """A rough picture of a model's latent `[C, H, W]`: `[H, W, 3]` from 0 to 1, or None where none is known."""
        if self.latent_rgb_factors is None:
            return None
        rgb = latent.movedim(0, -1).float() @ tensor(self.latent_rgb_factors, device=latent.device)
        if self.latent_rgb_factors_bias is not None:
            rgb = rgb + tensor(self.latent_rgb_factors_bias, device=latent.device)
        return ((rgb + 1.0) / 2.0).clamp(0, 1)
