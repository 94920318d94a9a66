"""CFG++ (Chung et al. 2024, arXiv:2406.08070): go to the guided picture, with the unguided noise."""

from __future__ import annotations

import torch
from torch import Tensor

from comfyk_core_nodes.sampling.brownian import NoiseSampler
from comfyk_core_nodes.sampling.samplers.steps import (
    Args,
    Callback,
    GuidedRun,
    Model,
    ancestral_step,
    check_distinct,
    half_log_snr,
    levels,
    to_d,
)


def sample_euler_ancestral_cfg_pp(
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
    """Ancestral Euler steps (algorithm 2 with DDIM's noise)."""
    run = GuidedRun(model, extra_args, callback)
    noise = run.noise_sampler(x, noise_sampler)
    strength = run.noise_strength(s_noise)
    flow = run.flow
    for i, sigma, sigma_next in levels(sigmas):
        denoised = run.step(i, x, sigma)
        if sigma_next == 0:
            return denoised
        alpha = sigma * half_log_snr(sigma, flow).exp()
        alpha_next = sigma_next * half_log_snr(sigma_next, flow).exp()
        predicted = to_d(x, sigma, alpha * run.uncond)
        down, up = ancestral_step(sigma / alpha, sigma_next / alpha_next, eta)
        x = alpha_next * (denoised + down * predicted)
        if eta > 0 and s_noise > 0:
            x = x + noise(sigma, sigma_next) * (alpha_next * strength * up)
    return x


def sample_euler_cfg_pp(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
) -> Tensor:
    """Euler steps (algorithm 2)."""
    return sample_euler_ancestral_cfg_pp(
        model, x, sigmas, extra_args, callback, disable, eta=0.0, s_noise=0.0
    )


def sample_euler_pp(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
) -> Tensor:
    """The alternative of SamplerEulerCFG++: guided and unguided latent trade places in the slope."""
    run = GuidedRun(model, extra_args, callback)
    for i, sigma, sigma_next in levels(sigmas):
        denoised = run.step(i, x, sigma)
        x = x + to_d(x - denoised + run.uncond, sigma, denoised) * (sigma_next - sigma)
    return x


def sample_dpmpp_2s_ancestral_cfg_pp(
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
    """DPM-Solver++(2S), ancestral: both stages start from `x` moved by what guidance adds.

    The second takes the unguided latent of the middle for that, so that even without guidance the deviation comes out
    too small on a Gaussian: without noise `exp(-1/4)` of it. It is kept so, because pictures depend on it.
    """
    run = GuidedRun(model, extra_args, callback)
    noise = run.noise_sampler(x, noise_sampler)
    strength = run.noise_strength(s_noise)
    for i, sigma, sigma_next in levels(sigmas):
        denoised = run.step(i, x, sigma)
        down, up = ancestral_step(sigma, sigma_next, eta)
        if down == 0:
            x = denoised
        else:
            middle = (sigma * down).sqrt()
            halfway = torch.lerp(denoised, x + (denoised - run.uncond), middle / sigma)
            denoised_middle = run.denoise(halfway, middle)
            # By now `uncond` is that of the middle.
            x = torch.lerp(denoised_middle, x + (denoised - run.uncond), down / sigma)
        if sigma_next > 0:
            x = x + noise(sigma, sigma_next) * (strength * up)
    return x


def sample_dpmpp_2m_cfg_pp(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
) -> Tensor:
    """DPM-Solver++(2M) with the unguided latents for history."""
    check_distinct(sigmas, "DPM-Solver++ 2M CFG++")
    run = GuidedRun(model, extra_args, callback)
    older = None
    for i, sigma, sigma_next in levels(sigmas):
        denoised = run.step(i, x, sigma)
        uncond = run.uncond
        if sigma_next == 0:
            return denoised
        h = (sigma / sigma_next).log()
        kept = sigma_next / sigma
        change = denoised + kept * (x - uncond)
        if older is not None:
            r = (sigmas[i - 1] / sigma).log() / h
            change = change - torch.expm1(-h) / (2 * r) * (denoised - older)
        x = change
        older = uncond
    return x
