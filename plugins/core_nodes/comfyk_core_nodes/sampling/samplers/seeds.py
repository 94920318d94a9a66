"""SEEDS (Gonzalez et al. 2023, arXiv:2305.14267): stochastic exponential solvers with stages, predicting the clean
latent. `eta` is the share of the reverse process's noise, 0 none; time is lambda, half the log SNR.

`exp_heun_2_x0` is the two-stage form whose second stage is at the end of the step: Heun's method.
"""

from __future__ import annotations

import torch
from torch import Tensor

from comfyk_core_nodes.sampling.brownian import NoiseSampler
from comfyk_core_nodes.sampling.samplers.steps import (
    Args,
    Callback,
    Model,
    Run,
    half_log_snr,
    levels,
    off_pure_noise,
    phi,
    sigma_at,
)


class _Noise:
    """The noise of one step, gathered from the parts between its stages."""

    def __init__(self, sampler: NoiseSampler, h: Tensor, eta: float, sigma: Tensor) -> None:
        self._sampler = sampler
        self._rate = h * eta
        self._r = 0.0
        self._sigma = sigma
        self._gathered: Tensor | float = 0.0

    def up_to(self, r: float, sigma: Tensor) -> Tensor:
        """Unit noise of the step from its beginning to the share `r` of it, where the level is `sigma`."""
        passed = (self._r - r) * self._rate
        fresh = (-torch.expm1(2 * passed)).sqrt() * self._sampler(self._sigma, sigma)
        self._gathered = self._gathered * passed.exp() + fresh
        self._r, self._sigma = r, sigma
        return self._gathered


def _seeds(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None,
    callback: Callback | None,
    eta: float,
    s_noise: float,
    noise_sampler: NoiseSampler | None,
    stages: tuple[float, ...],
    extrapolate: bool = False,
) -> Tensor:
    """`stages` are the shares of a step at which the model is called again.

    A stage, and the end, combine the first result with that of the stage before, at share `r`: with the weight
    `phi_2 / r` for the latter; with `extrapolate` the end takes their line at half of the step instead.
    """
    run = Run(model, extra_args, callback)
    noise_sampler = run.noise_sampler(x, noise_sampler)
    strength = run.noise_strength(s_noise)
    noisy = eta > 0 and strength > 0
    flow = run.flow
    for i, sigma, sigma_next in levels(off_pure_noise(sigmas, run.sampling)):
        first = run.step(i, x, sigma)
        if sigma_next == 0:
            return first
        start, end = half_log_snr(sigma, flow), half_log_snr(sigma_next, flow)
        h = end - start
        noise = _Noise(noise_sampler, h, eta, sigma)
        state, later, r_later = x, None, 0.0
        for r in (*stages, 1.0):
            at_end = later is not None and r_later == stages[-1]
            level = sigma_next if at_end else sigma_at(torch.lerp(start, end, r), flow)
            alpha = level * torch.lerp(start, end, r).exp()
            span = -r * h * (eta + 1)
            phi_1, phi_2 = phi(span, 2)
            if later is None:
                target = phi_1 * first
            elif at_end and extrapolate:
                target = phi_1 * torch.lerp(first, later, 1 / (2 * r_later))
            else:
                target = phi_1 * first + phi_2 * (r / r_later) * (later - first)
            state = level / sigma * (-r * h * eta).exp() * x - alpha * span * target
            if noisy:
                state = state + noise.up_to(r, level) * (level * strength)
            if not at_end:
                later, r_later = run.denoise(state, level), r
        x = state
    return x


def sample_seeds_2(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    r: float = 0.5,
    solver_type: str = "phi_1",
) -> Tensor:
    """SEEDS-2 with its second stage at the share `r` of the step. `solver_type` is `phi_1` or `phi_2`.

    Raises ValueError for another one.
    """
    if solver_type not in ("phi_1", "phi_2"):
        raise ValueError(f"solver_type is phi_1 or phi_2, not {solver_type!r}")
    return _seeds(
        model, x, sigmas, extra_args, callback, eta, s_noise, noise_sampler, (r,), solver_type == "phi_1"
    )


def sample_seeds_3(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    r_1: float = 1 / 3,
    r_2: float = 2 / 3,
) -> Tensor:
    """SEEDS-3 with stages at the shares `r_1` and `r_2` of the step."""
    return _seeds(model, x, sigmas, extra_args, callback, eta, s_noise, noise_sampler, (r_1, r_2))


def sample_exp_heun_2_x0(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    solver_type: str = "phi_2",
) -> Tensor:
    """The exponential Heun method without noise. Order 2."""
    return sample_seeds_2(
        model, x, sigmas, extra_args, callback, disable, 0.0, 0.0, r=1.0, solver_type=solver_type
    )


def sample_exp_heun_2_x0_sde(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    solver_type: str = "phi_2",
) -> Tensor:
    """The exponential Heun method with noise."""
    return sample_seeds_2(
        model, x, sigmas, extra_args, callback, disable, eta, s_noise, noise_sampler, 1.0, solver_type
    )
