"""Linear multistep (Adams-Bashforth) with the exact integrals for steps of any length."""

from __future__ import annotations

import numpy as np
from numpy.polynomial import Polynomial
from torch import Tensor

from comfyk_core_nodes.sampling.samplers.steps import Args, Callback, Model, Run, levels, to_d


def lagrange_integrals(nodes: np.ndarray, start: float, end: float) -> list[float]:
    """For each node, the integral from `start` to `end` of the Lagrange polynomial that is 1 there, 0 at the others."""
    found = []
    for j, node in enumerate(nodes):
        others = np.delete(nodes, j)
        basis = Polynomial(np.atleast_1d(np.poly(others))[::-1]) / np.prod(node - others)
        integral = basis.integ()
        found.append(float(integral(end) - integral(start)))
    return found


def sample_lms(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    order: int = 4,
) -> Tensor:
    """Adams-Bashforth over the slopes of the last `order` steps, in sigma (k-diffusion's LMS)."""
    run = Run(model, extra_args, callback)
    history: list[tuple[float, Tensor]] = []
    for i, sigma, sigma_next in levels(sigmas):
        denoised = run.step(i, x, sigma)
        if sigma_next == 0:
            x = denoised
        elif sigma_next != sigma:
            history = [(float(sigma), to_d(x, sigma, denoised)), *history[: order - 1]]
            nodes = np.array([level for level, _ in history])
            weights = lagrange_integrals(nodes, float(sigma), float(sigma_next))
            for weight, (_, slope) in zip(weights, history, strict=True):
                x = x + weight * slope
    return x
