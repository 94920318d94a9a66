"""ER-SDE-Solver (Cui et al. 2023, arXiv:2309.06169): extended reverse-time SDEs with any amount of noise."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from comfyk_core_nodes.sampling.brownian import NoiseSampler
from comfyk_core_nodes.sampling.samplers.steps import (
    Args,
    Callback,
    Model,
    Run,
    check_distinct,
    half_log_snr,
    levels,
    off_pure_noise,
)

_POINTS = 200
"""Of the sums that stand for the integrals of the higher stages."""


def er_sde_noise(ratio: Tensor, eta: float = 1.0) -> Tensor:
    """The paper's choice of phi, ER SDE 5, over the ratio of noise to signal; `eta` scales its noise."""
    return ratio * ((ratio**0.3).exp() + 10.0) ** eta


def reverse_time_noise(ratio: Tensor, eta: float = 1.0) -> Tensor:
    """phi of the ordinary reverse-time SDE."""
    return ratio ** (eta + 1)


def no_noise(ratio: Tensor) -> Tensor:
    """phi of the probability flow ODE."""
    return ratio


def sample_er_sde(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    noise_scaler: Callable[[Tensor], Tensor] | None = None,
    max_stage: int = 3,
) -> Tensor:
    """VP ER-SDE-Solver of up to three stages (algorithms 1 to 3); `noise_scaler` is the paper's phi.

    Its order is 2 with two stages or three: the third does not correct that the slope is right half a step back.
    """
    check_distinct(sigmas, "ER-SDE")
    run = Run(model, extra_args, callback)
    noise = run.noise_sampler(x, noise_sampler)
    strength = run.noise_strength(s_noise)
    phi = noise_scaler or er_sde_noise
    sigmas = off_pure_noise(sigmas, run.sampling)
    ratios = (-half_log_snr(sigmas, run.flow)).exp()
    points = torch.arange(_POINTS, dtype=torch.float32, device=x.device)
    older, older_slope = None, None
    for i, sigma, sigma_next in levels(sigmas):
        denoised = run.step(i, x, sigma)
        if sigma_next == 0:
            return denoised
        ratio, ratio_next = ratios[i], ratios[i + 1]
        alpha, alpha_next = sigma / ratio, sigma_next / ratio_next
        kept = phi(ratio_next) / phi(ratio)
        change = (1 - kept) * denoised
        slope = None
        if max_stage >= 2 and older is not None:
            step = ratio_next - ratio
            width = -step / _POINTS
            at = ratio_next + points * width
            slope = (denoised - older) / (ratio - ratios[i - 1])
            change = change + (step + phi(ratio_next) * (1 / phi(at)).sum() * width) * slope
            if max_stage >= 3 and older_slope is not None:
                integral = ((at - ratio) / phi(at)).sum() * width
                bend = (slope - older_slope) / ((ratio - ratios[i - 2]) / 2)
                change = change + (step**2 / 2 + phi(ratio_next) * integral) * bend
        x = alpha_next / alpha * kept * x + alpha_next * change
        if s_noise > 0:
            up = (ratio_next**2 - (ratio * kept) ** 2).clamp(min=0).sqrt()
            x = x + noise(sigma, sigma_next) * (alpha_next * strength * up)
        older, older_slope = denoised, slope
    return x
