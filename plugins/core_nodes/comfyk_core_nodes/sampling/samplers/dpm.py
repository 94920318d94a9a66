"""The midpoint method in log sigma with slopes in sigma, plain and ancestral: k-diffusion's take on DPM-Solver-2."""

from __future__ import annotations

import math

from torch import Tensor

from comfyk_core_nodes.sampling.brownian import NoiseSampler
from comfyk_core_nodes.sampling.samplers.euler import churn
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


def _midpoint_step(run: Run, x: Tensor, sigma: Tensor, target: Tensor, denoised: Tensor) -> Tensor:
    """From `sigma` to `target` with the slope at their geometric mean."""
    middle = (sigma * target).sqrt()
    halfway = x + to_d(x, sigma, denoised) * (middle - sigma)
    return x + to_d(halfway, middle, run.denoise(halfway, middle)) * (target - sigma)


def sample_dpm_2(
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
    """Midpoint steps in log sigma (after DPM-Solver-2 and Karras et al. 2022). Order 2; two evaluations a step."""
    run = Run(model, extra_args, callback)
    for i, sigma, sigma_next in levels(sigmas):
        x, sigma_hat = churn(x, sigma, len(sigmas) - 1, s_churn, s_tmin, s_tmax, s_noise)
        denoised = run.step(i, x, sigma, sigma_hat)
        x = denoised if sigma_next == 0 else _midpoint_step(run, x, sigma_hat, sigma_next, denoised)
    return x


def sample_dpm_2_ancestral(
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
    """As `sample_dpm_2`, to below the next level, and noise up to it. Flow models have their own scaling."""
    run = Run(model, extra_args, callback)
    noise = run.noise_sampler(x, noise_sampler)
    strength = run.noise_strength(s_noise)
    for i, sigma, sigma_next in levels(sigmas):
        denoised = run.step(i, x, sigma)
        if run.flow:
            down, scale, up = flow_ancestral_step(sigma, sigma_next, eta)
        else:
            (down, up), scale = ancestral_step(sigma, sigma_next, eta), 1.0
        if down == 0:
            x = denoised
        else:
            x = scale * _midpoint_step(run, x, sigma, down, denoised)
            if eta > 0:
                x = x + noise(sigma, sigma_next) * (strength * up)
    return x
