"""DPM-Solver (Lu et al. 2022, arXiv:2206.00927): exponential integrators that predict the noise.

Time is `t = -log(sigma)`. Equations and algorithms are the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from comfyk_core_nodes.sampling.brownian import NoiseSampler
from comfyk_core_nodes.sampling.samplers.steps import Args, Callback, Model, Run, ancestral_step, to_d

Eps = Callable[[Tensor, Tensor], Tensor]
"""The predicted noise of a latent at a time."""


def _sigma(t: Tensor) -> Tensor:
    return (-t).exp()


def _eps(run: Run) -> Eps:
    return lambda x, t: to_d(x, _sigma(t), run.denoise(x, _sigma(t)))


def _first_order(x: Tensor, t: Tensor, t_next: Tensor, eps: Tensor) -> Tensor:
    """DPM-Solver-1 (eq. 3.7), which is DDIM."""
    return x - _sigma(t_next) * torch.expm1(t_next - t) * eps


def _second_order(x: Tensor, t: Tensor, t_next: Tensor, eps: Tensor, eps_1: Tensor, r: float) -> Tensor:
    """DPM-Solver-2 (algorithm 4), with `eps_1` at `t + r * h`."""
    change = _sigma(t_next) / (2 * r) * torch.expm1(t_next - t) * (eps_1 - eps)
    return _first_order(x, t, t_next, eps) - change


def _third_order(x: Tensor, t: Tensor, t_next: Tensor, eps: Tensor, eps_1: Tensor, eps_at: Eps) -> Tensor:
    """DPM-Solver-3 (algorithm 5), with `eps_1` at a third of the step and one more evaluation at two thirds."""
    h = t_next - t
    t_2 = t + 2 / 3 * h
    step = t_2 - t
    x_2 = _first_order(x, t, t_2, eps) - _sigma(t_2) * 2 * (torch.expm1(step) / step - 1) * (eps_1 - eps)
    eps_2 = eps_at(x_2, t_2)
    return _first_order(x, t, t_next, eps) - _sigma(t_next) * 1.5 * (torch.expm1(h) / h - 1) * (eps_2 - eps)


def _ancestral_target(t: Tensor, t_next: Tensor, t_end: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """The time to solve to, and the noise to add there to get back to `t_next`."""
    if not eta:
        return t_next, torch.zeros_like(t_next)
    down, _ = ancestral_step(_sigma(t), _sigma(t_next), eta)
    target = torch.minimum(t_end, -down.log())
    return target, (_sigma(t_next) ** 2 - _sigma(target) ** 2).sqrt()


def _times(sigma_min: Tensor | float, sigma_max: Tensor | float, eta: float) -> tuple[Tensor, Tensor]:
    start, end = torch.as_tensor(sigma_max), torch.as_tensor(sigma_min)
    if start <= 0 or end <= 0:
        raise ValueError(f"DPM-Solver cannot start or end at sigma 0; it was given {start:g} to {end:g}")
    if eta and end >= start:
        raise ValueError("DPM-Solver adds noise (eta above 0) only when sigma goes down")
    return -start.log(), -end.log()


def sample_dpm_fast(
    model: Model,
    x: Tensor,
    sigma_min: Tensor | float,
    sigma_max: Tensor | float,
    n: int,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 0.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """DPM-Solver-Fast (sec. 3.4): `n` evaluations in third-order steps of equal length, fewer in the last ones.

    Raises ValueError for sigmas that are not positive.
    """
    run = Run(model, extra_args, callback)
    noise = run.noise_sampler(x, noise_sampler)
    eps_at = _eps(run)
    t_start, t_end = _times(sigma_min, sigma_max, eta)
    third_order_steps, rest = divmod(n, 3)
    orders = [3] * third_order_steps + [rest] if rest else [3] * (third_order_steps - 1) + [2, 1]
    times = torch.linspace(float(t_start), float(t_end), len(orders) + 1, device=x.device)
    for i, order in enumerate(orders):
        t, t_next = times[i], times[i + 1]
        target, up = _ancestral_target(t, t_next, t_end, eta)
        eps = eps_at(x, t)
        run.report(i, x, x - _sigma(t) * eps, sigma=_sigma(t), sigma_hat=_sigma(t), t=t, t_up=t)
        if order == 1:
            x = _first_order(x, t, target, eps)
        else:
            r = 1 / order
            t_1 = t + r * (target - t)
            eps_1 = eps_at(_first_order(x, t, t_1, eps), t_1)
            if order == 2:
                x = _second_order(x, t, target, eps, eps_1, r)
            else:
                x = _third_order(x, t, target, eps, eps_1, eps_at)
        if eta:
            x = x + noise(_sigma(t), _sigma(t_next)) * (s_noise * up)
    return x


@dataclass
class _StepSize:
    """A PID controller of the step size (Söderlind 2003, "Digital filters in adaptive time-stepping")."""

    h: float
    order: float
    pcoeff: float
    icoeff: float
    dcoeff: float
    accept_safety: float
    _history: list[float] = field(default_factory=list)

    def accepts(self, error: Tensor) -> bool:
        """Whether a step with this error, 1 being what is allowed, is good enough; sets the next step size."""
        now = 1 / (float(error) + 1e-8)
        before, longer_ago = self._history or (now, now)
        p, i, d = self.pcoeff, self.icoeff, self.dcoeff
        powers = now ** (p + i + d) * before ** -(p + 2 * d) * longer_ago**d
        factor = 1 + math.atan(powers ** (1 / self.order) - 1)
        self.h *= factor
        accepted = factor >= self.accept_safety
        if accepted:
            self._history = [now, before]
        elif not self._history:
            self._history = [now, now]
        return accepted


def sample_dpm_adaptive(
    model: Model,
    x: Tensor,
    sigma_min: Tensor | float,
    sigma_max: Tensor | float,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    order: int = 3,
    rtol: float = 0.05,
    atol: float = 0.0078,
    h_init: float = 0.05,
    pcoeff: float = 0.0,
    icoeff: float = 1.0,
    dcoeff: float = 0.0,
    accept_safety: float = 0.81,
    eta: float = 0.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """DPM-Solver-12 and -23 (appendix C): steps as long as the two orders agree within `atol` and `rtol`.

    Raises ValueError for sigmas that are not positive, or an `order` other than 2 and 3.
    """
    if order not in (2, 3):
        raise ValueError(f"dpm_adaptive has the orders 2 and 3, not {order}")
    run = Run(model, extra_args, callback)
    noise = run.noise_sampler(x, noise_sampler)
    eps_at = _eps(run)
    t, t_end = _times(sigma_min, sigma_max, eta)
    forward = bool(t_end > t)
    h = abs(h_init) if forward else -abs(h_init)
    size = _StepSize(h, 1.5 if eta else order, pcoeff, icoeff, dcoeff, accept_safety)
    x_before = x
    attempts = 0
    while t < t_end - 1e-5 if forward else t > t_end + 1e-5:
        t_next = torch.minimum(t_end, t + size.h) if forward else torch.maximum(t_end, t + size.h)
        target, up = _ancestral_target(t, t_next, t_end, eta)
        eps = eps_at(x, t)
        denoised = x - _sigma(t) * eps
        r = 1 / order
        t_1 = t + r * (target - t)
        eps_1 = eps_at(_first_order(x, t, t_1, eps), t_1)
        second = _second_order(x, t, target, eps, eps_1, r)
        if order == 2:
            low, high = _first_order(x, t, target, eps), second
        else:
            low, high = second, _third_order(x, t, target, eps, eps_1, eps_at)
        allowed = (rtol * torch.maximum(low.abs(), x_before.abs())).clamp(min=atol)
        error = torch.linalg.norm((low - high) / allowed) / math.sqrt(x.numel())
        if size.accepts(error):
            x_before = low
            x = high + noise(_sigma(t), _sigma(t_next)) * (s_noise * up) if eta else high
            t = t_next
        run.report(attempts, x, denoised, sigma=_sigma(t), sigma_hat=_sigma(t), t=t, error=error, h=size.h)
        attempts += 1
    return x
