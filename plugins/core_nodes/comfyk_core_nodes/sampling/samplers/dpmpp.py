"""DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095) without noise between steps, and its ancestral form.

Time is `t = -log(sigma)`; the solver predicts the clean latent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from comfyk_core_nodes.sampling.brownian import NoiseSampler
from comfyk_core_nodes.sampling.samplers.steps import (
    Args,
    Callback,
    Model,
    Run,
    ancestral_step,
    check_distinct,
    flow_ancestral_step,
    half_log_snr,
    levels,
    sigma_at,
)


def sample_dpmpp_2m(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
) -> Tensor:
    """DPM-Solver++(2M) (algorithm 2): the clean latent is extrapolated from the last two steps. Order 2."""
    check_distinct(sigmas, "DPM-Solver++ 2M")
    run = Run(model, extra_args, callback)
    older = None
    for i, sigma, sigma_next in levels(sigmas):
        denoised = run.step(i, x, sigma)
        if sigma_next == 0:
            return denoised
        h = (sigma / sigma_next).log()
        target = denoised
        if older is not None:
            r = (sigmas[i - 1] / sigma).log() / h
            target = denoised + (denoised - older) / (2 * r)
        x = sigma_next / sigma * x - torch.expm1(-h) * target
        older = denoised
    return x


def sample_dpmpp_2s_ancestral(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """DPM-Solver++(2S) (algorithm 1, r = 1/2) to below the next level, and noise up to it."""
    run = Run(model, extra_args, callback)
    if run.flow:
        return sample_dpmpp_2s_ancestral_RF(
            model, x, sigmas, extra_args, callback, disable, eta, s_noise, noise_sampler
        )
    noise = run.noise_sampler(x, noise_sampler)
    for i, sigma, sigma_next in levels(sigmas):
        denoised = run.step(i, x, sigma)
        down, up = ancestral_step(sigma, sigma_next, eta)
        if down == 0:
            x = denoised
        else:
            middle = (sigma * down).sqrt()
            halfway = torch.lerp(denoised, x, middle / sigma)
            x = torch.lerp(run.denoise(halfway, middle), x, down / sigma)
        if sigma_next > 0:
            x = x + noise(sigma, sigma_next) * (s_noise * up)
    return x


def sample_dpmpp_2s_ancestral_RF(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """`sample_dpmpp_2s_ancestral` for rectified flow. From pure noise the middle is at 0.9999."""
    run = Run(model, extra_args, callback)
    noise = run.noise_sampler(x, noise_sampler)
    strength = run.noise_strength(s_noise)
    for i, sigma, sigma_next in levels(sigmas):
        denoised = run.step(i, x, sigma)
        if sigma_next == 0:
            return denoised
        down, scale, up = flow_ancestral_step(sigma, sigma_next, eta)
        if sigma == 1.0:
            middle = torch.full_like(sigma, 0.9999)
        else:
            middle = sigma_at((half_log_snr(sigma, flow=True) + half_log_snr(down, flow=True)) / 2, flow=True)
        halfway = torch.lerp(denoised, x, middle / sigma)
        x = torch.lerp(run.denoise(halfway, middle), x, down / sigma)
        if eta > 0:
            x = scale * x + noise(sigma, sigma_next) * (strength * up)
    return x
