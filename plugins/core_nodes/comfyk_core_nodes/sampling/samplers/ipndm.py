"""iPNDM: linear multistep methods with fixed weights (Zhang and Chen 2022, arXiv:2204.13902, sec. 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

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

_ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""By order: the weights of the newest slope and those before it, for steps of equal length."""


def sample_ipndm(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    max_order: int = 4,
) -> Tensor:
    """Adams-Bashforth weights for equal steps, whatever the steps are. Up to order 4 where they are equal."""
    return _multistep(
        model, x, sigmas, extra_args, callback, max_order, lambda h: _ADAMS_BASHFORTH[len(h) - 1]
    )


def sample_ipndm_v(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    max_order: int = 4,
) -> Tensor:
    """As `sample_ipndm`, with weights that depend on the lengths of the last steps (zju-pi's diff-sampler)."""
    check_distinct(sigmas, "iPNDM_v")
    return _multistep(model, x, sigmas, extra_args, callback, max_order, _variable_weights)


def _multistep(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None,
    callback: Callback | None,
    max_order: int,
    weights_for: Callable[[list[Tensor]], Sequence[Tensor | float]],
) -> Tensor:
    """`weights_for` gets the lengths of this step and the ones before it, newest first."""
    run = Run(model, extra_args, callback)
    lengths = [after - before for before, after in pairwise(sigmas)]
    slopes: list[Tensor] = []
    for i, sigma, sigma_next in levels(sigmas):
        denoised = run.step(i, x, sigma)
        slopes = [to_d(x, sigma, denoised), *slopes[: max_order - 1]]
        if sigma_next == 0:
            x = denoised
            continue
        weights = weights_for(lengths[i - len(slopes) + 1 : i + 1][::-1])
        slope = weights[0] * slopes[0]
        for weight, older in zip(weights[1:], slopes[1:], strict=True):
            slope = slope + weight * older
        x = x + lengths[i] * slope
    return x


def _variable_weights(lengths: list[Tensor]) -> list[Tensor | float]:
    """Two weights are Adams-Bashforth's for unequal steps, three only for equal ones. Four are for none: on equal
    steps the third difference weighs 11/24, not 9/24. So the order is 3; they are kept as they are in diff-sampler,
    because pictures depend on them.
    """
    if len(lengths) == 1:
        return [1.0]
    a, b = lengths[:2]
    weights: list[Tensor | float] = [1 + a / (2 * b), -a / (2 * b)]
    if len(lengths) == 2:
        return weights
    c = lengths[2]
    u = 1 / 2 - a**2 / (6 * b * (b + c))
    weights = [weights[0] + u, weights[1] - (1 + b / c) * u, u * b / c]
    if len(lengths) == 3:
        return weights
    d = lengths[3]
    third = (1 - a / (3 * (a + b))) / 2
    fourth = (1 - a / (2 * (a + b))) * a / (6 * (a + b + c))
    v = (third + fourth) * a * (a + b) * (a + b + c) / (b * (b + c) * (b + c + d))
    q = b * (b + c) / (c * (c + d))
    return [
        weights[0] + v,
        weights[1] - (1 + b / c + q) * v,
        weights[2] + (b / c + q * (1 + c / d)) * v,
        -v * q * b / c,
    ]
