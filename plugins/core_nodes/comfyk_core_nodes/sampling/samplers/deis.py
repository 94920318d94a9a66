"""DEIS: exponential integration with polynomials through past slopes (Zhang and Chen 2022, arXiv:2204.13902)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from comfyk_core_nodes.sampling.samplers.steps import (
    Args,
    Callback,
    Model,
    Run,
    check_distinct,
    levels,
    to_d,
)

_POINTS = 10_000
"""Of the sums that stand for the integrals."""


def _vp_parameters(
    sigma_min: float = 0.002, sigma_max: float = 80.0, eps: float = 1e-3
) -> tuple[float, float]:
    """`beta_d` and `beta_min` of the VP diffusion that reaches these levels at times `eps` and 1."""
    low, high = math.log(sigma_min**2 + 1), math.log(sigma_max**2 + 1)
    beta_d = 2 * (low / eps - high) / (eps - 1)
    return beta_d, high - 0.5 * beta_d


def _weights(sigmas: Tensor, i: int, order: int) -> list[float]:
    """What the slopes `d eps` of the last `order` steps weigh in step `i`: the tAB-DEIS coefficients (eq. 15).

    Time is that of a VP diffusion, in which the slopes are interpolated; the sum runs over points that include both
    ends, as the weights that pictures depend on do.
    """
    beta_d, beta_min = _vp_parameters()
    log_variance = (sigmas[i - order + 1 : i + 2].double().cpu() ** 2 + 1).log()
    times = ((beta_min**2 + 2 * beta_d * log_variance).sqrt() - beta_min) / beta_d
    nodes, target = times[:-1].flip(0), times[-1]
    tau = torch.linspace(float(nodes[0]), float(target), _POINTS, dtype=torch.float64)
    alpha = (-0.5 * tau**2 * beta_d - tau * beta_min).exp()
    integrand = 0.5 * (tau * beta_d + beta_min) / (alpha * (1 - alpha)).sqrt()
    weights = []
    for j, node in enumerate(nodes):
        others = torch.cat([nodes[:j], nodes[j + 1 :]])
        basis = ((tau[:, None] - others) / (node - others)).prod(dim=1)
        weights.append(float((integrand * basis).sum() * (target - nodes[0]) / _POINTS))
    return weights


def sample_deis(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    max_order: int = 3,
) -> Tensor:
    """tAB-DEIS of up to `max_order` (1 to 4); the first step, and one to 0, are Euler's."""
    check_distinct(sigmas, "DEIS")
    run = Run(model, extra_args, callback)
    slopes: list[Tensor] = []
    for i, sigma, sigma_next in levels(sigmas):
        denoised = run.step(i, x, sigma)
        slopes = [to_d(x, sigma, denoised), *slopes[: max_order - 1]]
        if len(slopes) == 1 or sigma_next <= 0:
            x = x + (sigma_next - sigma) * slopes[0]
        else:
            for weight, slope in zip(_weights(sigmas, i, len(slopes)), slopes, strict=True):
                x = x + weight * slope
    return x
