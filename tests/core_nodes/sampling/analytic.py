"""Denoisers whose score is known, the exact solutions of their flows, and how fast a sampler comes near them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from comfyk_core_nodes.sampling.sampler_table import SAMPLERS
from torch import Tensor

MEAN, STD = 0.7, 1.3
FIRST, LAST = 1000.0, 0.4
"""From where the data hardly count, so that a multistep method's low-order start does not either, to where they do."""

_SHARES = torch.tensor([0.6, 0.4], dtype=torch.float64)
_CENTRES = torch.tensor([-1.0, 1.5], dtype=torch.float64)
_WIDTHS = torch.tensor([0.8, 0.5], dtype=torch.float64)

UNIT = torch.tensor([-2.0, -0.7, -0.2, 0.1, 0.6, 1.1, 1.5, 2.2], dtype=torch.float64).view(2, 1, 2, 2)
"""Noise of deviation 1, `[2, 1, 2, 2]`."""


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """The denoiser of data from one Gaussian, `MEAN` and `STD`."""
    return (STD**2 * x + sigma**2 * MEAN) / (STD**2 + sigma**2)


def flow_gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """The same for rectified flow, where `x` is `(1 - sigma) * data + sigma * noise`."""
    alpha = 1 - sigma
    return MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN)


def flow_exact(x: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """Where the probability flow of `flow_gaussian` leads."""

    def deviation(level: float) -> float:
        return math.hypot((1 - level) * STD, level)

    return (1 - sigma_next) * MEAN + (x - (1 - sigma) * MEAN) * deviation(sigma_next) / deviation(sigma)


def mixture(x: Tensor, sigma: Tensor) -> Tensor:
    """The denoiser of data from two Gaussians: not linear in `x`, so that it tells orders apart."""
    variance = _WIDTHS**2 + sigma[..., None] ** 2
    distance = x[..., None] - _CENTRES
    share = torch.softmax(_SHARES.log() - variance.log() / 2 - distance**2 / (2 * variance), dim=-1)
    return (share * (_CENTRES + _WIDTHS**2 / variance * distance)).sum(-1)


def mixture_flow(x: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """Where the probability flow of `mixture` leads: `dx / dlambda = denoised - x`, by SciPy to 10 digits."""
    from scipy.integrate import solve_ivp

    def slope(half_log_snr: float, state: Any) -> Any:
        latent = torch.from_numpy(state)
        level = torch.tensor(math.exp(-half_log_snr), dtype=torch.float64).expand(len(latent))
        return (mixture(latent, level) - latent).numpy()

    span = -math.log(sigma), -math.log(sigma_next)
    solved = solve_ivp(slope, span, x.flatten().numpy(), "DOP853", rtol=1e-10, atol=1e-11)
    return torch.from_numpy(solved.y[:, -1]).view(x.shape)


def log_levels(steps: int, first: float = FIRST, last: float = LAST) -> Tensor:
    """Even in log sigma, so in lambda: `[steps + 1]`, in float64."""
    return torch.linspace(math.log(first), math.log(last), steps + 1, dtype=torch.float64).exp()


def even_levels(steps: int, first: float, last: float) -> Tensor:
    """Even in sigma."""
    return torch.linspace(first, last, steps + 1, dtype=torch.float64)


def error(name: str, model: Any, x: Tensor, sigmas: Tensor, answer: Tensor, **options: Any) -> float:
    """The largest distance of what the sampler gives from `answer`."""
    return float((SAMPLERS[name](model, x, sigmas, {"seed": 1}, **options) - answer).abs().max())


def order(error_at: Callable[[int], float], steps: Sequence[int]) -> float:
    """The measured order between the two numbers of steps."""
    coarse, fine = (error_at(count) for count in steps)
    return math.log(coarse / fine) / math.log(steps[1] / steps[0])
