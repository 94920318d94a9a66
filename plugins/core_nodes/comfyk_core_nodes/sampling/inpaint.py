"""Sampling where a mask says so: the rest of the latent is kept, with the noise of each level on it."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class MaskedModel:
    """What a sampler calls as its model: a guider, that outside of a mask is shown the original latent.

    `inner_model` is the guider. `noise`, on the original latent, is the same at all levels.
    """

    def __init__(self, guider: Any, sigmas: Tensor, noise: Tensor, latent_image: Tensor) -> None:
        self.inner_model = guider
        self.sigmas = sigmas
        self.noise = noise
        self.latent_image = latent_image

    def __call__(
        self,
        x: Tensor,
        sigma: Tensor,
        denoise_mask: Tensor | None = None,
        model_options: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """The denoised latent. `denoise_mask`, `[B, C, ...]`, is 1 where it is the guider's, 0 where it stays.

        `denoise_mask_function` of the model options may give another mask for each level.
        """
        options = model_options or {}
        if denoise_mask is None:
            return self.inner_model(x, sigma, model_options=options, seed=seed)
        change = options.get("denoise_mask_function")
        mask = denoise_mask
        if change is not None:
            extra = {"model": self.inner_model, "sigmas": self.sigmas}
            mask = change(sigma, denoise_mask, extra_options=extra)
        return self._blend(x, sigma, mask, options, seed)

    def _blend(
        self, x: Tensor, sigma: Tensor, mask: Tensor, options: dict[str, Any], seed: int | None
    ) -> Tensor:
        kept = 1.0 - mask
        original = self.inner_model.inner_model.scale_latent_inpaint(
            x=x, sigma=sigma, noise=self.noise, latent_image=self.latent_image, denoise_mask=mask
        )
        x = x * mask + original * kept
        denoised = self.inner_model(x, sigma, model_options=options, seed=seed)
        return denoised * mask + self.latent_image * kept
