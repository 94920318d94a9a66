"""UniPC: a unified predictor-corrector (Zhao et al. 2023, arXiv:2302.04867), predicting the clean latent.

Time is lambda. A latent `alpha * x0 + ...` of the paper is `alpha * x` here, so alpha drops out of its formulas.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from comfyk_core_nodes.sampling.prediction import IMG_TO_IMG_FLOW
from comfyk_core_nodes.sampling.samplers.steps import (
    Args,
    Callback,
    Model,
    Run,
    check_distinct,
    phi,
)

_LAST_SIGMA = 0.001
"""A run that would end at 0 ends here: lambda is infinite at 0."""


def _weights(ratios: list[Tensor], hh: Tensor, scale: Tensor) -> list[float]:
    """The `a` of the predictor or corrector (theorem 3.1): a Vandermonde system, cut short as in the official code.

    `ratios` are the times of the differences in steps; one weight is 1/2 in place of the solution.
    """
    if len(ratios) == 1:
        return [0.5]
    phis = phi(hh, len(ratios) + 1)
    wanted = [math.factorial(k) * hh * phis[k] / scale for k in range(1, len(ratios) + 1)]
    powers = torch.vander(torch.stack(ratios), increasing=True).T
    return torch.linalg.solve(powers, torch.stack(wanted)).tolist()


def sample_unipc(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    variant: Literal["bh1", "bh2"] = "bh1",
) -> Tensor:
    """UniPC-3 (algorithms 5 to 8) with B(h) = h (`bh1`) or e**h - 1 (`bh2`); one evaluation a step.

    Of order 4 on the way; orders rise from 1 and go down again at the end, whose last step limits the whole to 2.
    A run of one step is that last one.
    """
    if len(sigmas) <= 1:
        return x
    check_distinct(sigmas, "UniPC", before_0=True)
    run = Run(model, extra_args, callback)
    times = sigmas.clone()
    if times[-1] == 0:
        times[-1] = _LAST_SIGMA
    # In single precision the variance 1 - alpha**2 loses digits at low levels, which pictures depend on.
    log_alphas = -0.5 * (times.cpu() ** 2 + 1).log()
    lambdas = log_alphas - 0.5 * (1 - (2 * log_alphas).exp()).log()
    steps = len(times) - 1
    highest = max(1, min(3, steps - 1))
    results = [run.step(0, x, times[0])]
    for step in range(1, steps + 1):
        order = min(highest, step, steps + 1 - step)
        h = lambdas[step] - lambdas[step - 1]
        hh = -h
        scale = hh if variant == "bh1" else torch.expm1(hh)
        newest = results[0]
        ratios = [(lambdas[step - 1 - k] - lambdas[step - 1]) / h for k in range(1, order)]
        differences = [(result - newest) / float(r) for r, result in zip(ratios, results[1:], strict=False)]
        first_order = float(torch.exp(hh)) * x - float(torch.expm1(hh)) * newest

        x = first_order
        if differences:
            weights = _weights(ratios, hh, scale)
            for weight, difference in zip(weights, differences, strict=True):
                x = x - float(scale) * weight * difference
        if step == steps:
            break
        result = run.denoise(x, times[step])
        weights = _weights([*ratios, torch.ones_like(h)], hh, scale)
        x = first_order
        for weight, difference in zip(weights, [*differences, result - newest], strict=True):
            x = x - float(scale) * weight * difference
        run.report(step, x, result, sigma=times[step], sigma_hat=times[step])
        results = [result, *results[:2]]
    if run.flow and times[-1] != sigmas[-1] and not isinstance(run.sampling, IMG_TO_IMG_FLOW):
        # A flow's latent at this level still has to be scaled to level 0, which is where the caller thinks it is.
        return run.sampling.inverse_noise_scaling(times[-1], x)
    return x


def sample_unipc_bh2(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
) -> Tensor:
    """`sample_unipc` with B(h) = e**h - 1."""
    return sample_unipc(model, x, sigmas, extra_args, callback, disable, "bh2")
