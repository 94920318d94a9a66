"""Multistep sampling of consistency models."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from comfyk_core_nodes.sampling.brownian import NoiseSampler
from comfyk_core_nodes.sampling.samplers.steps import Args, Callback, Model, Run, levels


def sample_lcm(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    noise_sampler: NoiseSampler | None = None,
    s_noise: float = 1.0,
    s_noise_end: float | None = None,
    noise_clip_std: float = 0.0,
) -> Tensor:
    """Denoise at once, add fresh noise of the next level (Luo et al. 2023, arXiv:2310.04378, algorithm 3).

    The noise is multiplied by `s_noise` after the first step, by `s_noise_end` after the last one, and linearly in
    between; `noise_clip_std` above 0 clips it to so many standard deviations before.
    """
    run = Run(model, extra_args, callback)
    noise_sampler = run.noise_sampler(x, noise_sampler)
    steps = len(sigmas) - 1
    last = s_noise if s_noise_end is None else s_noise_end
    for i, sigma, sigma_next in levels(sigmas):
        x = run.step(i, x, sigma)
        if sigma_next > 0:
            noise = noise_sampler(sigma, sigma_next)
            if noise_clip_std > 0:
                limit = float(noise_clip_std * noise.std())
                noise = noise.clamp(-limit, limit)
            strength = s_noise + (last - s_noise) * i / max(steps - 1, 1)
            x = run.sampling.noise_scaling(sigma_next, noise * strength, x)
    return x


def sample_lcm_upscale(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    upscale: Callable[[Tensor, int, int], Tensor],
    total_upscale: float = 2.0,
    upscale_steps: int | None = None,
) -> Tensor:
    """As `sample_lcm`, growing the latent `[B, C, H, W]` after each of the first steps.

    It ends `total_upscale` as large. `upscale(latent, width, height)` does it; `upscale_steps` is by default half of
    the steps. The noise is of torch's global generator.
    """
    run = Run(model, extra_args, callback)
    if upscale_steps is None:
        growing = max(len(sigmas) // 2, 1)
    else:
        growing = min(upscale_steps, len(sigmas))
    height, width = x.shape[-2:]
    for i, sigma, sigma_next in levels(sigmas):
        x = run.step(i, x, sigma)
        if i < growing:
            scale = 1 + (total_upscale - 1) * (i + 1) / growing
            x = upscale(x, round(width * scale), round(height * scale))
        if sigma_next > 0:
            x = x + sigma_next * torch.randn_like(x)
    return x
