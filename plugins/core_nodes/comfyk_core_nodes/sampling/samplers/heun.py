"""Heun's method on the probability flow ODE, and its three-stage relative."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from comfyk_core_nodes.sampling.samplers.euler import churn
from comfyk_core_nodes.sampling.samplers.steps import Args, Callback, Model, Run, levels, to_d


def sample_heun(
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
    """Heun steps (Karras et al. 2022, arXiv:2206.00364, algorithm 2). Order 2; two evaluations a step."""
    run = Run(model, extra_args, callback)
    for i, sigma, sigma_next in levels(sigmas):
        x, sigma_hat = churn(x, sigma, len(sigmas) - 1, s_churn, s_tmin, s_tmax, s_noise)
        d = to_d(x, sigma_hat, run.step(i, x, sigma, sigma_hat))
        dt = sigma_next - sigma_hat
        if sigma_next > 0:
            ahead = x + d * dt
            d = (d + to_d(ahead, sigma_next, run.denoise(ahead, sigma_next))) / 2
        x = x + d * dt
    return x


def sample_heunpp2(
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
    """Heun++: slopes looked up one and two levels ahead, weighted by those levels against the highest one.

    From Carzit's sd-webui-samplers-scheduler (MIT). Up to three evaluations a step. Of order 1: the weights change
    along the run. With churn, noise is drawn in steps that do not use it as well.
    """
    run = Run(model, extra_args, callback)
    steps = len(sigmas) - 1
    for i, sigma, sigma_next in levels(sigmas):
        if s_churn > 0 and not s_tmin <= sigma <= s_tmax:
            torch.randn_like(x)
        x, sigma_hat = churn(x, sigma, steps, s_churn, s_tmin, s_tmax, s_noise)
        slope = first = to_d(x, sigma_hat, run.step(i, x, sigma, sigma_hat))
        dt = sigma_next - sigma_hat
        ahead, d, last = x, first, sigma_hat
        looked_up = sigmas[i + 1 : min(i + 3, steps)]
        for level in looked_up:
            ahead = ahead + d * (level - last)
            d = to_d(ahead, level, run.denoise(ahead, level))
            slope = slope + (d - first) * level / ((len(looked_up) + 1) * sigmas[0])
            last = level
        x = x + slope * dt
    return x
