"""What a network's output means: noise, velocity, the picture itself. One mix-in class for each.

They are joined with a class of `model_sampling`, which knows the noise levels:
`class Sampling(ModelSamplingDiscrete, V_PREDICTION)`. Everywhere `sigma` is `[]` or `[B]`; latents are
`[B, C, ...]`. A noisy latent is `x0 + sigma * noise` (Karras et al. 2022, arXiv:2206.00364), for the flow kinds
`(1 - sigma) * x0 + sigma * noise` (Lipman et al. 2022, arXiv:2210.02747). The names are those of the field.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from torch import Tensor


def broadcast_sigma(sigma: Tensor, dims: int) -> Tensor:
    """`sigma` so that it multiplies a latent of `dims` dimensions: `[]`, or `[B, 1, ...]`."""
    if sigma.nelement() == 1:
        return sigma.view(())
    return sigma.view(sigma.shape[0], *[1] * (dims - 1))


class EPS:
    """The network predicts the noise (Ho et al. 2020, arXiv:2006.11239)."""

    sigma_data: float = 1.0
    """Standard deviation of clean latents, as the network was trained for."""

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        """What the network is given for the noisy latent `noise`: unit variance at every level."""
        sigma = broadcast_sigma(sigma, noise.ndim)
        return noise / (sigma**2 + self.sigma_data**2) ** 0.5

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        """The clean latent that `model_output` stands for; `model_input` is the unscaled noisy latent."""
        return model_input - model_output * broadcast_sigma(sigma, model_output.ndim)

    def noise_scaling(
        self, sigma: Tensor, noise: Tensor, latent_image: Tensor | float, max_denoise: bool = False
    ) -> Tensor:
        """`latent_image` with unit `noise` at level `sigma`.

        With `max_denoise` the run starts at the model's highest level, where the latent's own variance is part of
        the noise's.
        """
        sigma = broadcast_sigma(sigma, noise.ndim)
        scale = (1.0 + sigma**2.0).sqrt() if max_denoise else sigma
        return noise * scale + latent_image

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        """What stands in a latent's place once a run has ended at level `sigma`."""
        return latent


class V_PREDICTION(EPS):
    """The network predicts the velocity `alpha * noise - sigma * x0` (Salimans and Ho 2022, arXiv:2202.00512)."""

    _sign = -1.0

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        sigma = broadcast_sigma(sigma, model_output.ndim)
        variance = sigma**2 + self.sigma_data**2
        kept = model_input * self.sigma_data**2 / variance
        return kept + model_output * (self._sign * sigma * self.sigma_data / variance**0.5)


class EDM(V_PREDICTION):
    """The network predicts the clean latent behind c_skip and c_out (Karras et al. 2022, table 1)."""

    _sign = 1.0


class X0(EPS):
    """The network predicts the clean latent."""

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        return model_output


class IMG_TO_IMG(X0):
    """Picture in, picture out, nothing scaled."""

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        return noise


class CONST:
    """Rectified flow: the network predicts `noise - x0` (Liu et al. 2022, arXiv:2209.03003)."""

    noise_scale: float
    """Standard deviation of the noise that the network was trained with, where it is not 1."""

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        return noise

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        return model_input - model_output * broadcast_sigma(sigma, model_output.ndim)

    def noise_scaling(
        self, sigma: Tensor, noise: Tensor, latent_image: Tensor | float, max_denoise: bool = False
    ) -> Tensor:
        sigma = broadcast_sigma(sigma, noise.ndim)
        return sigma * (getattr(self, "noise_scale", 1.0) * noise) + (1.0 - sigma) * latent_image

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        return latent / (1.0 - broadcast_sigma(sigma, latent.ndim))


class IMG_TO_IMG_FLOW(CONST):
    """Picture in, inverted picture out; no noise is added."""

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        return model_output

    def noise_scaling(
        self, sigma: Tensor, noise: Tensor, latent_image: Tensor | float, max_denoise: bool = False
    ) -> Tensor:
        return cast("Tensor", latent_image)

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        return 1.0 - latent


class COSMOS_RFLOW:
    """Rectified flow with noise levels as in EDM: `t = sigma / (1 + sigma)`."""

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        return noise / (1.0 + broadcast_sigma(sigma, noise.ndim))

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        sigma = broadcast_sigma(sigma, model_output.ndim)
        return (model_input - model_output * sigma) / (1.0 + sigma)

    def noise_scaling(
        self, sigma: Tensor, noise: Tensor, latent_image: Tensor | float, max_denoise: bool = False
    ) -> Tensor:
        return noise * broadcast_sigma(sigma, noise.ndim) + latent_image

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        return latent


class LCM(EPS):
    """A latent consistency model: eps behind the boundary condition (Luo et al. 2023, arXiv:2310.04378, sec. 4)."""

    _sigma_data = 0.5
    _timestep_scaling = 10.0

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        x0 = super().calculate_denoised(sigma, model_output, model_input)
        # `timestep` is the other half's, of a class in `model_sampling`.
        timestep = self.timestep(sigma)  # pyright: ignore[reportAttributeAccessIssue]
        t = broadcast_sigma(timestep, model_output.ndim) * self._timestep_scaling
        variance = t**2 + self._sigma_data**2
        return t / variance**0.5 * x0 + self._sigma_data**2 / variance * model_input
