"""Guiders: from a noisy latent to a denoised one, with classifier-free guidance (Ho and Salimans 2022,
arXiv:2207.12598), and a whole run of a sampler around it.

`model` is the wrapped network (`BaseModel`), `model_patcher` what nodes pass around as MODEL. Of `model_options`,
which nodes set on a clone of it, these are used here: `sampler_calc_cond_batch_function`, `sampler_cfg_function`,
`sampler_pre_cfg_function`, `sampler_post_cfg_function`, `disable_cfg1_optimization`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from comfyk_core_nodes.memory.extensions import move_extensions, put_into_options, wrapped
from comfyk_core_nodes.sampling.cond_batch import calc_cond_batch, copy_options
from comfyk_core_nodes.sampling.conditioning import Conditioning, conditioning_set_values
from comfyk_core_nodes.sampling.prepare import (
    clean_up,
    convert_cond,
    prepare_mask,
    prepare_sampling,
    process_conds,
    to_model_scale,
)
from comfyk_core_nodes.sampling.regions import Cond

StepCallback = Callable[[int, Tensor, Tensor, int], None]
"""Called after each step with its number, the denoised latent, the noisy one and the number of steps."""


class Sampler(Protocol):
    """A sampler with its options, as nodes pass it around."""

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: StepCallback | None,
        noise: Tensor,
        latent_image: Tensor,
        denoise_mask: Tensor | None,
        disable_pbar: bool,
    ) -> Tensor: ...


def cfg_function(
    model: Any,
    cond_pred: Tensor,
    uncond_pred: Tensor,
    cond_scale: float,
    x: Tensor,
    timestep: Tensor,
    model_options: Mapping[str, Any],
    cond: Sequence[Cond] | None = None,
    uncond: Sequence[Cond] | None = None,
) -> Tensor:
    """Guidance: `uncond + (cond - uncond) * cond_scale`, or what nodes set in its place, and what they set after it."""
    common = {
        "cond_scale": cond_scale,
        "input": x,
        "sigma": timestep,
        "cond_denoised": cond_pred,
        "uncond_denoised": uncond_pred,
        "model": model,
        "model_options": model_options,
    }
    own = model_options.get("sampler_cfg_function")
    if own is None:
        result = uncond_pred + (cond_pred - uncond_pred) * cond_scale
    else:
        # By the field's contract it works on `x - denoised`.
        noises = {"cond": x - cond_pred, "uncond": x - uncond_pred, "timestep": timestep}
        result = x - own({**common, **noises, "input_cond": cond, "input_uncond": uncond})
    for function in model_options.get("sampler_post_cfg_function", ()):
        result = function({**common, "denoised": result, "cond": cond, "uncond": uncond})
    return result


def goes_without_uncond(cond_scale: float, model_options: Mapping[str, Any]) -> bool:
    """Whether the result at this scale is the positive prediction alone, and nobody wants the other all the same."""
    return math.isclose(cond_scale, 1.0) and not model_options.get("disable_cfg1_optimization", False)


def sampling_function(
    model: Any,
    x: Tensor,
    timestep: Tensor,
    uncond: Sequence[Cond] | None,
    cond: Sequence[Cond] | None,
    cond_scale: float,
    model_options: dict[str, Any],
    seed: int | None = None,
) -> Tensor:
    """The denoised latent of `x`, `[B, C, ...]`, at `timestep`, `[B]`, a sigma. At scale 1 `uncond` is left out."""
    if goes_without_uncond(cond_scale, model_options):
        uncond = None
    conds = [cond, uncond]
    common = {"conds": conds, "input": x, "sigma": timestep, "model": model, "model_options": model_options}
    calculate = model_options.get("sampler_calc_cond_batch_function")
    if calculate is None:
        results = calc_cond_batch(model, conds, x, timestep, model_options)
    else:
        results = calculate(common)
    for function in model_options.get("sampler_pre_cfg_function", ()):
        results = function({**common, "conds_out": results, "cond_scale": cond_scale, "timestep": timestep})
    return cfg_function(model, results[0], results[1], cond_scale, x, timestep, model_options, cond, uncond)


@contextmanager
def running(patcher: Any) -> Iterator[None]:
    """A run with this patcher: its model knows it as `current_patcher`, its callbacks hear of start and end."""
    try:
        patcher.pre_run()
        yield
    finally:
        patcher.cleanup()


class CFGGuider:
    """Guides by a positive and a negative conditioning. A subclass may override any of its methods.

    During a run `inner_model` is the wrapped network, `conds` are the conditionings made ready, by kind, and
    `loaded_models` the patchers of the other networks.
    """

    inner_model: Any
    conds: dict[str, list[Cond]]
    loaded_models: list[Any]

    def __init__(self, model_patcher: Any) -> None:
        self.model_patcher = model_patcher
        self.model_options: dict[str, Any] = model_patcher.model_options
        self.original_conds: dict[str, list[Cond]] = {}
        self.cfg = 1.0

    def set_conds(self, positive: Conditioning, negative: Conditioning) -> None:
        self.inner_set_conds({"positive": positive, "negative": negative})

    def set_cfg(self, cfg: float) -> None:
        self.cfg = cfg

    def inner_set_conds(self, conds: Mapping[str, Conditioning]) -> None:
        """Take conditionings by kind."""
        for kind, conditioning in conds.items():
            self.original_conds[kind] = convert_cond(conditioning)

    def __call__(
        self,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        return self.outer_predict_noise(x, timestep, {} if model_options is None else model_options, seed)

    def outer_predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: int | None = None
    ) -> Tensor:
        """`predict_noise` with the wrappers around it."""
        predict = self._wrapped("predict_noise", self.predict_noise, self)
        return predict(x, timestep, model_options, seed)

    def _wrapped(self, kind: str, method: Callable[..., Tensor], class_obj: Any) -> Callable[..., Tensor]:
        return wrapped(kind, self.model_options.get("transformer_options"), method, class_obj)

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: int | None = None
    ) -> Tensor:
        """The denoised latent, in spite of the name that the field has given it."""
        return sampling_function(
            self.inner_model,
            x,
            timestep,
            self.conds.get("negative"),
            self.conds.get("positive"),
            self.cfg,
            model_options,
            seed,
        )

    def inner_sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        device: torch.device,
        sampler: Sampler,
        sigmas: Tensor,
        denoise_mask: Tensor | None,
        callback: StepCallback | None,
        disable_pbar: bool,
        seed: int | None,
        latent_shapes: Sequence[torch.Size] | None = None,
    ) -> Tensor:
        """The run itself, with the model loaded and all tensors on `device`."""
        latent_image = to_model_scale(self.inner_model, latent_image)
        self.conds = process_conds(
            self.inner_model,
            noise,
            self.conds,
            device,
            latent_image,
            denoise_mask,
            seed,
            latent_shapes=latent_shapes,
        )
        options = copy_options(self.model_options)
        options.setdefault("transformer_options", {})["sample_sigmas"] = sigmas
        extra_args = {"model_options": options, "seed": seed}
        run = self._wrapped("sampler_sample", sampler.sample, sampler)
        samples = run(self, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar)
        return self.inner_model.process_latent_out(samples.float())

    def outer_sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Sampler,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        callback: StepCallback | None = None,
        disable_pbar: bool = False,
        seed: int | None = None,
        latent_shapes: Sequence[torch.Size] | None = None,
    ) -> Tensor:
        """Load what the run needs, run, and let go of it. `latent_shapes` are those of the latents in the latent."""
        patcher = self.model_patcher
        self.inner_model, self.conds, self.loaded_models = prepare_sampling(
            patcher, noise.shape, self.conds, self.model_options
        )
        device = patcher.load_device
        try:
            move_extensions(self.model_options["transformer_options"], device, patcher.model_dtype())
            with running(patcher):
                return self.inner_sample(
                    noise.to(device, torch.float32),
                    latent_image.to(device, torch.float32),
                    device,
                    sampler,
                    sigmas.to(device),
                    denoise_mask,
                    callback,
                    disable_pbar,
                    seed,
                    latent_shapes=latent_shapes,
                )
        finally:
            clean_up(self.conds, self.loaded_models)
            del self.inner_model, self.loaded_models

    @torch.no_grad()
    def sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Sampler,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        callback: StepCallback | None = None,
        disable_pbar: bool = False,
        seed: int | None = None,
    ) -> Tensor:
        """Denoise `latent_image` with `noise` added, both `[B, C, ...]`, along `sigmas`, `[steps + 1]`.

        Where `denoise_mask`, of any size, is 0 the latent stays as it is. No sigmas: the latent as it is.
        Raises `comfyk.context.Interrupted` within one forward pass of the job's being asked to stop.
        """
        if len(sigmas) == 0:
            return latent_image
        if denoise_mask is not None:
            denoise_mask = prepare_mask(denoise_mask, noise.shape, self.model_patcher.load_device)
        self.conds = {kind: [dict(cond) for cond in conds] for kind, conds in self.original_conds.items()}
        original_options = self.model_options
        self.model_options = copy_options(original_options)
        extensions = self.model_options.setdefault("transformer_options", {})
        put_into_options(extensions, self.model_patcher.wrappers, self.model_patcher.callbacks)
        run = self._wrapped("outer_sample", self.outer_sample, self)
        try:
            return run(
                noise,
                latent_image,
                sampler,
                sigmas,
                denoise_mask,
                callback,
                disable_pbar,
                seed,
                latent_shapes=[latent_image.shape],
            )
        finally:
            move_extensions(extensions, self.model_patcher.offload_device)
            self.model_options = original_options
            del self.conds


class BasicGuider(CFGGuider):
    """One conditioning, no guidance."""

    def set_conds(self, positive: Conditioning) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.inner_set_conds({"positive": positive})


class DualCFGGuider(CFGGuider):
    """Guides from negative to middle to positive (Brooks et al. 2022, arXiv:2211.09800, sec. 3.2.1)."""

    def set_cfg(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, cfg1: float, cfg2: float, nested: bool = False
    ) -> None:
        """`cfg1` is from middle to positive, `cfg2` from negative; `nested` applies it to the first's result."""
        self.cfg1, self.cfg2, self.nested = cfg1, cfg2, nested

    def set_conds(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, positive: Conditioning, middle: Conditioning, negative: Conditioning
    ) -> None:
        middle = conditioning_set_values(middle, {"prompt_type": "negative"})
        self.inner_set_conds({"positive": positive, "middle": middle, "negative": negative})

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: int | None = None
    ) -> Tensor:
        model = self.inner_model
        negative, middle, positive = (self.conds.get(kind) for kind in ("negative", "middle", "positive"))
        if not self.nested and goes_without_uncond(self.cfg2, model_options):
            negative = None
            if goes_without_uncond(self.cfg1, model_options):
                middle = None
        low, mid, high = calc_cond_batch(model, [negative, middle, positive], x, timestep, model_options)
        if self.nested:
            text = cfg_function(model, high, mid, self.cfg1, x, timestep, model_options, positive, middle)
            return low + self.cfg2 * (text - low)
        guided = cfg_function(model, mid, low, self.cfg2, x, timestep, model_options, middle, negative)
        return guided + (high - mid) * self.cfg1
