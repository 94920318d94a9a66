"""Euler's method on the probability flow ODE, plain and ancestral."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from comfyk_core_nodes.sampling.brownian import NoiseSampler
from comfyk_core_nodes.sampling.samplers.steps import (
    Args,
    Callback,
    Model,
    Run,
    ancestral_step,
    flow_ancestral_step,
    levels,
    to_d,
)


def churn(
    x: Tensor, sigma: Tensor, steps: int, s_churn: float, s_tmin: float, s_tmax: float, s_noise: float
) -> tuple[Tensor, Tensor]:
    """Raise the noise of `x` to a level above `sigma` (Karras et al. 2022, algorithm 2, lines 4 to 6).

    Returns the noisier `x` and its level. The noise is of torch's global generator, drawn only where it is used.
    """
    if s_churn <= 0 or not s_tmin <= sigma <= s_tmax:
        return x, sigma
    sigma_hat = sigma * (1 + min(s_churn / steps, math.sqrt(2) - 1))
    return x + torch.randn_like(x) * s_noise * (sigma_hat**2 - sigma**2).sqrt(), sigma_hat


def sample_euler(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Tensor:
    """Euler steps (Karras et al. 2022, arXiv:2206.00364, algorithm 2 without its correction). Order 1."""
    run = Run(model, extra_args, callback)
    for i, sigma, sigma_next in levels(sigmas):
        x, sigma_hat = churn(x, sigma, len(sigmas) - 1, s_churn, s_tmin, s_tmax, s_noise)
        denoised = run.step(i, x, sigma, sigma_hat)
        x = x + to_d(x, sigma_hat, denoised) * (sigma_next - sigma_hat)
    return x


def sample_euler_ancestral(
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
    """Euler steps below the next level, and noise up to it (Song et al. 2020, arXiv:2010.02502)."""
    run = Run(model, extra_args, callback)
    if run.flow:
        return sample_euler_ancestral_RF(
            model, x, sigmas, extra_args, callback, disable, eta, s_noise, noise_sampler
        )
    noise = run.noise_sampler(x, noise_sampler)
    for i, sigma, sigma_next in levels(sigmas):
        denoised = run.step(i, x, sigma)
        down, up = ancestral_step(sigma, sigma_next, eta)
        if down == 0:
            x = denoised
        else:
            x = x + to_d(x, sigma, denoised) * (down - sigma) + noise(sigma, sigma_next) * (s_noise * up)
    return x


def sample_euler_ancestral_RF(
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
    """`sample_euler_ancestral` for rectified flow."""
    run = Run(model, extra_args, callback)
    noise = run.noise_sampler(x, noise_sampler)
    strength = run.noise_strength(s_noise)
    for i, sigma, sigma_next in levels(sigmas):
        denoised = run.step(i, x, sigma)
        if sigma_next == 0:
            x = denoised
            continue
        down, scale, up = flow_ancestral_step(sigma, sigma_next, eta)
        x = torch.lerp(denoised, x, down / sigma)
        if eta > 0:
            x = scale * x + noise(sigma, sigma_next) * (strength * up)
    return x
