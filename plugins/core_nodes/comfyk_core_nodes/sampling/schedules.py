"""Schedules: the sigmas that a run walks through, descending, as float32 `[steps + 1]` ending in 0.

`calculate_sigmas` knows the nine that workflows name. The others are for the nodes that build a schedule from numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from comfyk_core_nodes.sampling.model_sampling import ModelSampling

_SKIP_PENULTIMATE = ("dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2")
"""Samplers that go better without the last level before 0: the schedule is made a step longer, and it is left out."""

_LONGEST = 1_000_000
"""Steps of a schedule of which a run takes the end."""


def calculate_sigmas(model_sampling: ModelSampling, scheduler: str, steps: int) -> Tensor:
    """The sigmas of `steps` steps for a model's levels. Raises ValueError for an unknown scheduler.

    `beta` and `ddim_uniform` may give a few more or fewer than `steps + 1`, where levels repeat or do not divide.
    """
    if scheduler in _BY_LEVELS:
        return _BY_LEVELS[scheduler](model_sampling, steps)
    if scheduler in _BY_BOUNDS:
        bounds = float(model_sampling.sigma_min), float(model_sampling.sigma_max)
        return _BY_BOUNDS[scheduler](steps, *bounds)
    known = ", ".join([*_BY_LEVELS, *_BY_BOUNDS])
    raise ValueError(f"the scheduler {scheduler!r} is not known; there are {known}")


def _end(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def simple(model_sampling: ModelSampling, steps: int) -> Tensor:
    """Evenly spaced entries of the model's table, from its end."""
    sigmas = model_sampling.sigmas.cpu()
    stride = len(sigmas) / steps
    return _end(sigmas[[-(1 + int(i * stride)) for i in range(steps)]])


def ddim_uniform(model_sampling: ModelSampling, steps: int) -> Tensor:
    """Every n-th entry of the model's table, from its second (Song et al. 2020, arXiv:2010.02502)."""
    sigmas = model_sampling.sigmas.cpu()
    ends_in_zero = math.isclose(float(sigmas[1]), 0, abs_tol=0.00001)
    stride = max(len(sigmas) // (steps + ends_in_zero), 1)
    chosen = sigmas[1::stride].flip(0)
    return chosen if ends_in_zero else _end(chosen)


def normal(model_sampling: ModelSampling, steps: int) -> Tensor:
    """Evenly spaced timesteps, the first and the last one among them."""
    first = float(model_sampling.timestep(model_sampling.sigma_max))
    last = model_sampling.timestep(model_sampling.sigma_min)
    if math.isclose(float(model_sampling.sigma(last)), 0, abs_tol=0.00001):
        return _sigmas_at(model_sampling, torch.linspace(first, float(last), steps + 1))
    return _end(_sigmas_at(model_sampling, torch.linspace(first, float(last), steps)))


def sgm_uniform(model_sampling: ModelSampling, steps: int) -> Tensor:
    """Evenly spaced timesteps from the first towards the last, which is left out (Stability's generative-models)."""
    first = float(model_sampling.timestep(model_sampling.sigma_max))
    last = float(model_sampling.timestep(model_sampling.sigma_min))
    return _end(_sigmas_at(model_sampling, torch.linspace(first, last, steps + 1)[:-1]))


def _sigmas_at(model_sampling: ModelSampling, timesteps: Tensor) -> Tensor:
    return model_sampling.sigma(timesteps).float().cpu()


def beta(model_sampling: ModelSampling, steps: int, alpha: float = 0.6, beta: float = 0.6) -> Tensor:
    """Entries of the model's table at quantiles of a Beta distribution, repeats dropped (arXiv:2407.12173).

    Raises ValueError for an `alpha` or `beta` that is not above 0.
    """
    import numpy as np
    from scipy.stats import beta as distribution

    if min(alpha, beta) <= 0:
        raise ValueError(
            f"a Beta distribution needs an alpha and a beta above 0, not {alpha} and {beta}; set them higher"
        )
    sigmas = model_sampling.sigmas.cpu()
    quantiles = 1 - np.linspace(0, 1, steps, endpoint=False)
    entries = np.rint(distribution.ppf(quantiles, alpha, beta) * (len(sigmas) - 1)).astype(int)
    return _end(sigmas[torch.unique_consecutive(torch.from_numpy(entries))])


def linear_quadratic(
    model_sampling: ModelSampling, steps: int, threshold_noise: float = 0.025, linear_steps: int | None = None
) -> Tensor:
    """A slow linear start, then a parabola that joins it smoothly (Genmo's Mochi 1; Polyak et al. 2024, Movie Gen).

    The share of the highest sigma that is gone grows linearly to `threshold_noise` over the first `linear_steps`
    (half of them by default), then as `a*i**2 + b*i + c` to 1.
    """
    highest = model_sampling.sigma_max.cpu()
    if steps == 1:
        return torch.tensor([1.0, 0.0]) * highest
    n = steps // 2 if linear_steps is None else linear_steps
    rest = steps - n
    excess = n - threshold_noise * steps
    a = excess / (n * rest**2)
    b = threshold_noise / n - 2 * excess / rest**2
    gone = [threshold_noise * i / n for i in range(n)]
    gone += [a * i**2 + b * i + a * n**2 for i in range(n, steps)]
    return torch.tensor([1.0 - share for share in [*gone, 1.0]]) * highest


def karras(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """Evenly spaced `sigma ** (1 / rho)` (Karras et al. 2022, arXiv:2206.00364, eq. 5).

    Raises ValueError for a `rho` of 0.
    """
    if rho == 0:
        raise ValueError("the karras schedule has no levels at a rho of 0; set it higher, 7 is usual")
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return _end((high + torch.linspace(0, 1, steps) * (low - high)) ** rho)


def _check_bounds(sigma_min: float, sigma_max: float) -> None:
    if min(sigma_min, sigma_max) <= 0:
        raise ValueError(
            f"a schedule in log(sigma) needs bounds above 0, not sigma_min {sigma_min} and sigma_max {sigma_max}; "
            "set them higher"
        )


def exponential(steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Evenly spaced `log(sigma)`. Raises ValueError for bounds that are not above 0."""
    _check_bounds(sigma_min, sigma_max)
    return _end(torch.linspace(math.log(sigma_max), math.log(sigma_min), steps).exp())


def polyexponential(steps: int, sigma_min: float, sigma_max: float, rho: float = 1.0) -> Tensor:
    """`log(sigma)` along a ramp to the power of `rho`. Raises ValueError for bounds that are not above 0."""
    _check_bounds(sigma_min, sigma_max)
    ramp = torch.linspace(1, 0, steps) ** rho
    low, high = math.log(sigma_min), math.log(sigma_max)
    return _end((ramp * (high - low) + low).exp())


def kl_optimal(steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Evenly spaced `atan(sigma)` (Sabour et al. 2024, arXiv:2404.14507, sec. 3.1). One step starts at the top."""
    ramp = torch.arange(steps, dtype=torch.float) / max(steps - 1, 1)
    return _end((ramp * math.atan(sigma_min) + (1 - ramp) * math.atan(sigma_max)).tan())


def variance_preserving(
    steps: int, beta_d: float = 19.9, beta_min: float = 0.1, eps_s: float = 0.001
) -> Tensor:
    """Evenly spaced times of the continuous VP diffusion (Song et al. 2020, arXiv:2011.13456)."""
    t = torch.linspace(1, eps_s, steps)
    return _end((beta_d * t**2 / 2 + beta_min * t).expm1().sqrt())


def laplace(steps: int, sigma_min: float, sigma_max: float, mu: float = 0.0, beta: float = 0.5) -> Tensor:
    """`log(sigma)` at quantiles of a Laplace distribution (Hang et al. 2024, arXiv:2407.03297).

    `[steps]`: it ends at `sigma_min`, no 0 follows.
    """
    below = 0.5 - torch.linspace(0, 1, steps)
    log_sigma = mu - beta * below.sign() * (1 - 2 * below.abs() + 1e-5).log()
    return log_sigma.exp().clamp(sigma_min, sigma_max)


def sd_turbo(model_sampling: ModelSampling, steps: int, denoise: float = 1.0) -> Tensor:
    """The first `steps` of timesteps 999, 899 ... 99, after skipping the share that `denoise` leaves out."""
    skipped = 10 - int(10 * denoise)
    timesteps = (torch.arange(10, 0, -1) * 100 - 1)[skipped : skipped + steps]
    return _end(model_sampling.sigma(timesteps).float().cpu())


def for_denoise(steps: int, denoise: float | None, schedule: Callable[[int], Tensor]) -> Tensor:
    """The last `steps` steps of a schedule that is so much longer that they cover `denoise` of it; empty for 0.

    Raises ValueError when that schedule has more than a million steps.
    """
    if denoise is None or denoise > 0.9999:
        return schedule(steps)
    if denoise <= 0.0:
        return torch.empty(0)
    if steps / denoise > _LONGEST:
        raise ValueError(
            f"{steps} steps at a denoise of {denoise} are the end of a schedule of {steps / denoise:.3g} steps, and "
            f"{_LONGEST:,} is the most; raise denoise, or lower the steps"
        )
    return schedule(int(steps / denoise))[-(steps + 1) :]


def extend(sigmas: Tensor, steps: int, lowest: float, highest: float, spacing: str) -> Tensor:
    """Each step that starts between two levels becomes `steps`, spaced `linear`, `cosine` or `sine`."""
    along = torch.linspace(0, 1, steps + 1)[1:-1]
    if spacing == "cosine":
        along = (along * math.pi / 2).sin()
    elif spacing == "sine":
        along = 1 - (along * math.pi / 2).cos()
    levels: list[float] = []
    for start, end in zip(sigmas.tolist(), sigmas[1:].tolist(), strict=False):
        levels.append(start)
        if lowest <= start <= highest:
            levels += (along * (end - start) + start).tolist()
    return torch.tensor([*levels, *sigmas[-1:].tolist()], dtype=torch.float32)


def sigmas_for(
    model_patcher: Any, sampler_name: str, scheduler: str, steps: int, denoise: float | None = None
) -> Tensor:
    """The sigmas of a run, `[steps + 1]`: the last `steps` of a longer schedule if `denoise` is below 1."""
    sampling = model_patcher.get_model_object("model_sampling")

    def schedule(count: int) -> Tensor:
        if sampler_name not in _SKIP_PENULTIMATE:
            return calculate_sigmas(sampling, scheduler, count)
        sigmas = calculate_sigmas(sampling, scheduler, count + 1)
        return torch.cat([sigmas[:-2], sigmas[-1:]])

    return for_denoise(steps, denoise, schedule)


def cut_steps(
    sigmas: Tensor, start_step: int | None, last_step: int | None, force_full_denoise: bool
) -> Tensor:
    """The part of a schedule from one step to another; empty when the start is at its end or beyond.

    A run that ends early leaves noise in the latent, unless `force_full_denoise` makes its last step go to 0.
    """
    if last_step is not None and last_step < len(sigmas) - 1:
        sigmas = sigmas[: last_step + 1].clone()
        if force_full_denoise:
            sigmas[-1] = 0
    if start_step is not None:
        return sigmas[start_step:] if start_step < len(sigmas) - 1 else sigmas[:0]
    return sigmas


_BY_LEVELS: dict[str, Callable[[Any, int], Tensor]] = {
    "simple": simple,
    "sgm_uniform": sgm_uniform,
    "ddim_uniform": ddim_uniform,
    "beta": beta,
    "normal": normal,
    "linear_quadratic": linear_quadratic,
}
_BY_BOUNDS: dict[str, Callable[[int, float, float], Tensor]] = {
    "karras": karras,
    "exponential": exponential,
    "kl_optimal": kl_optimal,
}
