"""What sampler nodes do: latent dicts in and out, with progress and previews for the running node.

A latent dict has `samples`, `[B, C, ...]`, and maybe `noise_mask`, `[B, H, W]`, and `batch_index`, `[B]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from comfyk import current_app, current_call
from torch import Tensor

from comfyk_core_nodes.images.resize import resize_images
from comfyk_core_nodes.memory.patcher import ModelPatcher
from comfyk_core_nodes.sampling.conditioning import Conditioning
from comfyk_core_nodes.sampling.guidance import CFGGuider, Sampler, StepCallback
from comfyk_core_nodes.sampling.noise import prepare_empty_noise, prepare_noise
from comfyk_core_nodes.sampling.preview import find_previewer, step_callback
from comfyk_core_nodes.sampling.preview_settings import PREVIEW_METHODS, preview_settings
from comfyk_core_nodes.sampling.run import fix_empty_latent, sample, to_intermediate

Latent = dict[str, Any]

_OF_EMPTY_LATENTS = ("downscale_ratio_spacial", "downscale_ratio_temporal")
"""Entries that say what an empty latent was made for; a sampled one has left that behind."""


class Noise(Protocol):
    """What RandomNoise and its kin give."""

    seed: int

    def generate_noise(self, latent: Mapping[str, Any]) -> Tensor: ...


def prepare_latent(model: ModelPatcher, latent: Mapping[str, Any]) -> Latent:
    """A copy; if it is empty, of the channels and the size that the model has for the picture that was meant.

    Raises ValueError for one that has another number of channels or of dimensions than the model's latents.
    """
    form = model.get_model_object("latent_format")
    shape = list(latent["samples"].shape)
    if len(shape) != 2 + form.latent_dimensions:
        raise ValueError(
            f"the latent is of the shape {shape}; the model takes latents [batch, {form.latent_channels}, "
            "height, width]: make it with EmptyLatentImage, or encode a picture with the VAE of the model"
        )
    prepared = {key: value for key, value in latent.items() if key not in _OF_EMPTY_LATENTS}
    ratio = latent.get("downscale_ratio_spacial")
    prepared["samples"] = fix_empty_latent(model, latent["samples"], ratio)
    if prepared["samples"].shape[1] != form.latent_channels:
        raise ValueError(
            f"the latent is of the shape {shape}, with {shape[1]} channels; the model takes latents of "
            f"{form.latent_channels}: encode the picture with the VAE of the model, or sample from an "
            "empty latent"
        )
    return prepared


def node_callback(model: ModelPatcher, x0_output: dict[str, Tensor] | None = None) -> StepCallback:
    """Progress, and previews as the job or else the settings ask for. See `preview.step_callback` for `x0_output`."""
    app, call = current_app(), current_call()
    settings = preview_settings()
    asked = call.run.job.extra_data.get("preview_method") if call is not None else None
    method = asked if asked in PREVIEW_METHODS else settings.method
    latent_format = model.get_model_object("latent_format")
    previewer = find_previewer(latent_format, method, app.folders, model.load_device)
    return step_callback(previewer, settings.size, x0_output)


def sample_latent(
    model: ModelPatcher,
    latent: Mapping[str, Any],
    *,
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    positive: Conditioning,
    negative: Conditioning,
    denoise: float = 1.0,
    add_noise: bool = True,
    start_step: int | None = None,
    last_step: int | None = None,
    force_full_denoise: bool = False,
) -> Latent:
    """What KSampler does. See `run.sample`; without `add_noise` the latent is taken to have its noise."""
    out = prepare_latent(model, latent)
    samples = out["samples"]
    noise = (
        prepare_noise(samples, seed, out.get("batch_index")) if add_noise else prepare_empty_noise(samples)
    )
    out["samples"] = sample(
        model,
        noise,
        steps,
        cfg,
        sampler_name,
        scheduler,
        positive,
        negative,
        samples,
        denoise=denoise,
        start_step=start_step,
        last_step=last_step,
        force_full_denoise=force_full_denoise,
        noise_mask=out.get("noise_mask"),
        callback=node_callback(model),
        seed=seed,
    )
    return out


def sample_with(
    guider: CFGGuider,
    noise: Noise,
    sampler: Sampler,
    sigmas: Tensor,
    latent: Mapping[str, Any],
    seed: int | None = None,
) -> tuple[Latent, Latent]:
    """The latent where `sigmas` end, and as the model saw it denoised after the last step.

    `seed` is that of the samplers' own noise, by default the seed of `noise`.
    """
    model = guider.model_patcher
    out = prepare_latent(model, latent)
    last: dict[str, Tensor] = {}
    samples = guider.sample(
        noise.generate_noise(out),
        out["samples"],
        sampler,
        sigmas,
        denoise_mask=out.get("noise_mask"),
        callback=node_callback(model, last),
        seed=noise.seed if seed is None else seed,
    )
    result = {**out, "samples": to_intermediate(samples)}
    if "x0" not in last:
        return result, result
    return result, {**out, "samples": model.model.process_latent_out(last["x0"].cpu())}


def add_noise(model: ModelPatcher, noise: Noise, sigmas: Tensor, latent: Mapping[str, Any]) -> Latent:
    """The latent with as much noise as lies between the first sigma and the last. Empty sigmas change nothing."""
    if len(sigmas) == 0:
        return dict(latent)
    samples = latent["samples"]
    amount = (sigmas[0] - sigmas[-1]).abs() if len(sigmas) > 1 else sigmas[0]
    if torch.count_nonzero(samples) > 0:
        samples = model.get_model_object("process_latent_in")(samples)
    sampling = model.get_model_object("model_sampling")
    noisy = sampling.noise_scaling(amount, noise.generate_noise(latent), samples)
    noisy = model.get_model_object("process_latent_out")(noisy)
    return {**latent, "samples": torch.nan_to_num(noisy, nan=0.0, posinf=0.0, neginf=0.0)}


def resize_latent(latent: Tensor, width: int, height: int, method: str) -> Tensor:
    """`[B, C, H, W]` to `[B, C, height, width]`.

    By `bislerp` it comes with its channels last in memory: noise that is drawn like it, as `sample_lcm_upscale` does,
    falls into place in that order, and the same seed is to give the same picture.
    """
    resized = resize_images(latent.movedim(1, -1), width, height, method).movedim(-1, 1)
    return resized.contiguous(memory_format=torch.channels_last) if method == "bislerp" else resized
