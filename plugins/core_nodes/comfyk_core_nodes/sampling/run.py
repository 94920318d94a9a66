"""A whole run: a sampler by its name, the schedule with its steps, denoise, start and end, and the guider around it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from comfyk_core_nodes.devices.device import intermediate_device
from comfyk_core_nodes.images.batch import repeat_to_batch
from comfyk_core_nodes.images.not_finite import LATENT_ADVICE, warn_of_nan
from comfyk_core_nodes.sampling.conditioning import Conditioning
from comfyk_core_nodes.sampling.guidance import CFGGuider, Sampler, StepCallback
from comfyk_core_nodes.sampling.inpaint import MaskedModel
from comfyk_core_nodes.sampling.sampler_table import SAMPLERS
from comfyk_core_nodes.sampling.schedules import cut_steps, sigmas_for
from comfyk_core_nodes.weights.dtypes import intermediate_dtype


class KSAMPLER:
    """A sampler function of `samplers` with its options, as nodes pass it around.

    Of `inpaint_options`, `random` puts noise of the next seed on the original latent, not that of the run.
    """

    def __init__(
        self,
        sampler_function: Callable[..., Tensor],
        extra_options: Mapping[str, Any] | None = None,
        inpaint_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.sampler_function = sampler_function
        self.extra_options = dict(extra_options or {})
        self.inpaint_options = dict(inpaint_options or {})

    def max_denoise(self, model_wrap: Any, sigmas: Tensor) -> bool:
        """Whether a run along `sigmas` starts at the model's highest level or above it."""
        highest = float(model_wrap.inner_model.model_sampling.sigma_max)
        first = float(sigmas[0])
        return first > highest or math.isclose(highest, first, rel_tol=1e-05)

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: StepCallback | None,
        noise: Tensor,
        latent_image: Tensor,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """Noise `latent_image`, both `[B, C, ...]` in the model's scale, and denoise it along `sigmas`."""
        sampling = model_wrap.inner_model.model_sampling
        masked = MaskedModel(model_wrap, sigmas, self._inpaint_noise(noise, extra_args), latent_image)
        x = sampling.noise_scaling(sigmas[0], noise, latent_image, self.max_denoise(model_wrap, sigmas))
        total = len(sigmas) - 1

        def report(step: Mapping[str, Any]) -> None:
            if callback is not None:
                callback(step["i"], step["denoised"], step["x"], total)

        samples = self.sampler_function(
            masked,
            x,
            sigmas,
            extra_args={**extra_args, "denoise_mask": denoise_mask},
            callback=report,
            disable=disable_pbar,
            **self.extra_options,
        )
        return sampling.inverse_noise_scaling(sigmas[-1], samples)

    def _inpaint_noise(self, noise: Tensor, extra_args: Mapping[str, Any]) -> Tensor:
        if not self.inpaint_options.get("random", False):
            return noise
        generator = torch.manual_seed(extra_args.get("seed", 41) + 1)
        return torch.randn(noise.shape, generator=generator).to(noise)


def ksampler(
    name: str,
    extra_options: Mapping[str, Any] | None = None,
    inpaint_options: Mapping[str, Any] | None = None,
) -> KSAMPLER:
    """The sampler of that name with options. Raises ValueError for an unknown name."""
    if name not in SAMPLERS:
        raise ValueError(f"the sampler {name!r} is not known; there are {', '.join(SAMPLERS)}")
    return KSAMPLER(SAMPLERS[name], extra_options, inpaint_options)


def sampler_object(name: str) -> KSAMPLER:
    """The sampler that the name stands for in a menu. `ddim` is Euler's method but for its noise in inpainting."""
    return ksampler(name, inpaint_options={"random": True} if name == "ddim" else None)


def sample(
    model_patcher: Any,
    noise: Tensor,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    positive: Conditioning,
    negative: Conditioning,
    latent_image: Tensor,
    denoise: float = 1.0,
    start_step: int | None = None,
    last_step: int | None = None,
    force_full_denoise: bool = False,
    noise_mask: Tensor | None = None,
    sigmas: Tensor | None = None,
    callback: StepCallback | None = None,
    seed: int | None = None,
) -> Tensor:
    """What KSampler does: denoise `latent_image`, `[B, C, ...]`, with names in place of objects.

    `sigmas` may be given in place of `scheduler`, `steps` and `denoise`.
    """
    if sigmas is None:
        sigmas = sigmas_for(model_patcher, sampler_name, scheduler, steps, denoise)
    sigmas = cut_steps(sigmas, start_step, last_step, force_full_denoise)
    return sample_custom(
        model_patcher,
        noise,
        cfg,
        sampler_object(sampler_name),
        sigmas,
        positive,
        negative,
        latent_image,
        noise_mask,
        callback,
        seed,
    )


def sample_custom(
    model_patcher: Any,
    noise: Tensor,
    cfg: float,
    sampler: Sampler,
    sigmas: Tensor,
    positive: Conditioning,
    negative: Conditioning,
    latent_image: Tensor,
    noise_mask: Tensor | None = None,
    callback: StepCallback | None = None,
    seed: int | None = None,
) -> Tensor:
    """Denoise `latent_image`, `[B, C, ...]`, with a sampler and sigmas of any origin. Empty sigmas change nothing."""
    guider = CFGGuider(model_patcher)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    samples = guider.sample(noise, latent_image, sampler, sigmas, noise_mask, callback, seed=seed)
    return to_intermediate(samples)


def to_intermediate(samples: Tensor) -> Tensor:
    """A latent where, and as what, it is between nodes. One that holds NaN is told of."""
    warn_of_nan(samples, "the latent", LATENT_ADVICE)
    return samples.to(intermediate_device(), intermediate_dtype())


def fix_empty_latent(model_patcher: Any, latent: Tensor, downscale_ratio: float | None = None) -> Tensor:
    """An all-zero latent `[B, C, H, W]` with as many channels as the model has; another one as it is.

    `downscale_ratio` says how many pixels wide its places were meant to be; where the model's are of another size, it
    becomes as much larger or smaller.
    """
    if torch.count_nonzero(latent) > 0:
        return latent
    form = model_patcher.get_model_object("latent_format")
    if latent.shape[1] != form.latent_channels:
        latent = repeat_to_batch(latent.movedim(1, 0), form.latent_channels).movedim(0, 1)
    if downscale_ratio is not None and downscale_ratio != form.spacial_downscale_ratio:
        ratio = downscale_ratio / form.spacial_downscale_ratio
        latent = latent.new_zeros(*latent.shape[:-2], *(round(size * ratio) for size in latent.shape[-2:]))
    return latent
