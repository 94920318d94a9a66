"""SA-Solver: stochastic Adams methods, predictor and corrector (Xue et al. 2023, arXiv:2309.05019).

Time is lambda, half the log SNR; tau is the paper's measure of noise, 0 none and 1 that of the reverse process.
"""

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

Tau = Callable[[Tensor | float], float]


def tau_interval(start_sigma: float, end_sigma: float, eta: float = 1.0) -> Tau:
    """tau is `eta` between these levels, 0 elsewhere."""
    return lambda sigma: eta if eta > 0 and end_sigma <= float(sigma) <= start_sigma else 0.0


def _weights(nodes: Tensor, start: Tensor, end: Tensor, tau: float) -> Tensor:
    """What the results at `nodes` weigh in the step from `start` to `end`, `[K]` (eqs. 15 and 18), without alpha.

    They integrate `(1 + tau**2) * exp((1 + tau**2) * (lambda - end))` times any polynomial of degree below K
    exactly; the moments about `end` follow from integrating by parts.
    """
    a, h = 1 + tau**2, float(end - start)
    offsets = (nodes - end).double().cpu()
    edge = torch.exp(torch.tensor(-a * h, dtype=torch.float64))
    moments = [1 - edge]
    for p in range(1, len(nodes)):
        moments.append(-((-h) ** p) * edge - p / a * moments[-1])
    powers = torch.vander(offsets, increasing=True).T
    return torch.linalg.solve(powers, torch.stack(moments))


def _simple_weights(nodes: Tensor, start: Tensor, end: Tensor, tau: float, corrector: bool) -> Tensor:
    """The two weights of appendix D, where the integral is cut after its first terms."""
    a, h = 1 + tau**2, (end - start).double().cpu()
    total = -torch.expm1(-a * h)
    if corrector:
        newest = 0.5 * a * h
        return torch.stack([total - newest, newest])
    older = 0.5 * a * h**2 / (nodes[0] - start).double().cpu()
    return torch.stack([older, total - older])


def sample_sa_solver(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    tau_func: Tau | None = None,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    predictor_order: int = 3,
    corrector_order: int = 4,
    use_pece: bool = False,
    simple_order_2: bool = False,
) -> Tensor:
    """Algorithm 1. By default there is noise between 20 and 80 percent of the way; near the end orders go down.

    With `use_pece` the model is called again after each correction. `corrector_order` 0 leaves corrections out.
    """
    if len(sigmas) <= 1:
        return x
    check_distinct(sigmas, "SA-Solver")
    run = Run(model, extra_args, callback)
    noise_sampler = run.noise_sampler(x, noise_sampler)
    strength = run.noise_strength(s_noise)
    sampling = run.sampling
    sigmas = off_pure_noise(sigmas, sampling)
    lambdas = half_log_snr(sigmas, run.flow)
    tau_func = tau_func or tau_interval(sampling.percent_to_sigma(0.2), sampling.percent_to_sigma(0.8))
    steps_left = len(sigmas) - 1 if sigmas[-1] == 0 else 2 * len(sigmas)
    results: list[Tensor] = []
    predicted, noise, tau = x, None, 0.0

    def advance(x: Tensor, to: int, order: int, corrector: bool) -> Tensor:
        """From level `to - 1` to level `to`, with the newest `order` results."""
        newest = to if corrector else to - 1
        nodes = lambdas[newest - order + 1 : newest + 1]
        start, end = lambdas[to - 1], lambdas[to]
        if simple_order_2 and order == 2:
            weights = _simple_weights(nodes, start, end, tau, corrector)
        else:
            weights = _weights(nodes, start, end, tau)
        alpha = sigmas[to] * end.exp()
        out = sigmas[to] / sigmas[to - 1] * (-(tau**2) * (end - start)).exp() * x
        for weight, result in zip(weights.tolist(), results[-order:], strict=True):
            out = out + alpha * weight * result
        return out if noise is None else out + noise

    for i, sigma, sigma_next in levels(sigmas):
        denoised = run.step(i, predicted, sigma)
        results = [*results, denoised][-max(predictor_order, corrector_order) :]
        order = min(corrector_order, len(results), steps_left - i)
        if i == 0 or order == 0 or (sigma_next == 0 and not use_pece):
            x = predicted
        else:
            x = advance(x, i, order, corrector=True)
            if use_pece:
                denoised = results[-1] = run.denoise(x, sigma)
        if sigma_next == 0:
            return denoised
        tau = tau_func(sigma_next)
        noise = None
        if tau > 0 and s_noise > 0:
            h = lambdas[i + 1] - lambdas[i]
            up = sigma_next * (-torch.expm1(-2 * tau**2 * h)).sqrt()
            noise = noise_sampler(sigma, sigma_next) * (up * strength)
        predicted = advance(x, i + 1, min(predictor_order, len(results), steps_left - 1 - i), corrector=False)
    return predicted


def sample_sa_solver_pece(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    tau_func: Tau | None = None,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    predictor_order: int = 3,
    corrector_order: int = 4,
    simple_order_2: bool = False,
) -> Tensor:
    """Predict, evaluate, correct, evaluate: two evaluations a step."""
    return sample_sa_solver(
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        tau_func,
        s_noise,
        noise_sampler,
        predictor_order,
        corrector_order,
        use_pece=True,
        simple_order_2=simple_order_2,
    )
