"""The law of what stochastic samplers give, against that of the data: exactly, and by drawing.

On Gaussian data a sampler is affine in its start and its noises, so what it gives is Gaussian. The response to a unit
of each tells its mean and variance to the last digit, and how fast they come to the right ones: the weak order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from comfyk_core_nodes.sampling.sampler_table import SAMPLERS
from comfyk_core_nodes.sampling.samplers.lcm import sample_lcm
from comfyk_core_nodes.sampling.samplers.seeds import sample_seeds_3
from torch import Tensor

from .analytic import LAST, MEAN, STD, flow_gaussian, gaussian, log_levels, order

FIRST = 50.0


class Law(NamedTuple):
    mean: float
    variance: float


def law(name: str, model: Any, sigmas: Tensor, mean: float, std: float, **options: Any) -> Law:
    """The law of what the sampler gives for a start of this law, `model` being affine.

    A first run tells between which levels noise is asked for. Between neighbouring ones the noise is independent, as
    of one Brownian path, and the second run has one item of the batch for a unit of each.
    """
    asked: list[float] = []

    def listen(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        asked.extend((float(sigma), float(sigma_next)))
        return torch.zeros(1, 1, 1, 1, dtype=torch.float64)

    start = torch.full((1, 1, 1, 1), mean, dtype=torch.float64)
    SAMPLERS[name](model, start, sigmas, noise_sampler=listen, **options)
    times = torch.tensor(sorted(set(asked), reverse=True), dtype=torch.float64)
    lengths = times[:-1] - times[1:]

    def unit(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        inside = (times[:-1] <= float(sigma)) & (times[1:] >= float(sigma_next))
        shares = torch.where(inside, (lengths / float(sigma - sigma_next)).sqrt(), 0.0)
        return torch.cat([torch.zeros(2, dtype=torch.float64), shares]).view(-1, 1, 1, 1)

    start = start.repeat(len(lengths) + 2, 1, 1, 1)
    start[1] += std
    base, *moved = SAMPLERS[name](model, start, sigmas, noise_sampler=unit, **options).flatten().tolist()
    return Law(base, sum((value - base) ** 2 for value in moved))


def calm_or_not(tau: float) -> Callable[[Any], float]:
    return lambda sigma: tau


WEAK_ORDERS: list[tuple[str, dict[str, Any], int]] = [
    # Euler-Maruyama and its kin: weak order 1.
    ("euler_ancestral", {}, 1),
    ("euler_ancestral", {"eta": 0.5}, 1),
    ("euler_ancestral_cfg_pp", {}, 1),
    ("ddpm", {}, 1),
    ("er_sde", {"max_stage": 1}, 1),
    # The noise of an ancestral step fits the level it starts from exactly: the order is that of the flow's solver.
    ("dpm_2_ancestral", {}, 2),
    ("dpmpp_2s_ancestral", {}, 2),
    ("dpmpp_2s_ancestral", {"eta": 0.5}, 2),
    ("res_multistep_ancestral", {}, 2),
    ("res_multistep_ancestral_cfg_pp", {}, 2),
    # The noise is integrated exactly, and the denoised latent to second order.
    ("dpmpp_sde", {}, 2),
    ("dpmpp_2m_sde", {}, 2),
    ("dpmpp_2m_sde", {"eta": 0.5}, 2),
    ("dpmpp_2m_sde_heun", {}, 2),
    ("dpmpp_3m_sde", {}, 2),
    ("er_sde", {}, 2),
    ("seeds_2", {}, 2),
    ("seeds_2", {"solver_type": "phi_2"}, 2),
    ("seeds_3", {}, 2),
    ("exp_heun_2_x0_sde", {}, 2),
    # Theorem 5.1 of arXiv:2309.05019 has one order, times tau; in law it is one more.
    ("sa_solver", {"tau_func": calm_or_not(1.0)}, 2),
    ("sa_solver", {"tau_func": calm_or_not(0.5)}, 2),
    ("sa_solver_pece", {"tau_func": calm_or_not(1.0)}, 2),
]


@pytest.mark.parametrize(("name", "options", "claimed"), WEAK_ORDERS)
def test_weak_order(name: str, options: dict[str, Any], claimed: int, sampler_model: Any) -> None:
    """A start of the right law at the first level ends in the right one at the last."""
    model = sampler_model(gaussian)

    def error_at(steps: int) -> float:
        found = law(name, model, log_levels(steps, FIRST, LAST), MEAN, math.hypot(STD, FIRST), **options)
        assert found.mean == pytest.approx(MEAN, abs=1e-12)
        return abs(found.variance - STD**2 - LAST**2)

    assert order(error_at, (48, 96)) >= claimed - 0.25


NOISY = sorted({name for name, _, _ in WEAK_ORDERS} | {"dpmpp_2s_ancestral_cfg_pp"})
GPU = {name: f"{name}_gpu" for name in ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde")}
DRAWS = 112 * 112
FALSE_ALARM = 4.9
"""Standard errors that a right sampler exceeds once in a million times."""


@pytest.mark.parametrize("name", [*NOISY, *GPU.values()])
def test_draws_have_the_law_of_the_sampler(name: str, sampler_model: Any) -> None:
    """With its own noise a sampler's draws have the mean and variance that were computed for unit noise."""
    model = sampler_model(gaussian)
    sigmas = log_levels(24, FIRST, LAST)
    expected = law(name.removesuffix("_gpu"), model, sigmas, MEAN, math.hypot(STD, FIRST))
    start = torch.randn(1, 1, 112, 112, generator=torch.Generator().manual_seed(1)) * math.hypot(STD, FIRST)
    drawn = SAMPLERS[name](model, start + MEAN, sigmas.float(), {"seed": 2})
    again = SAMPLERS[name](model, start + MEAN, sigmas.float(), {"seed": 3})
    for draws in (drawn, again):
        mean_error = math.sqrt(expected.variance / DRAWS)
        assert abs(float(draws.mean()) - expected.mean) < FALSE_ALARM * mean_error
        variance_error = expected.variance * math.sqrt(2 / (DRAWS - 1))
        assert abs(float(draws.var()) - expected.variance) < FALSE_ALARM * variance_error
    # A path of its own: other noise, and a start that hardly counts.
    correlation = torch.corrcoef(torch.stack([drawn.flatten(), again.flatten()]))[0, 1]
    assert correlation < 0.9


@pytest.mark.parametrize("name", sorted({name for name, _, _ in WEAK_ORDERS}))
def test_draws_at_sigma_0_have_the_law_of_the_data(name: str, sampler_model: Any) -> None:
    steps = 320 if name in ("euler_ancestral", "euler_ancestral_cfg_pp", "ddpm") else 80
    sigmas = torch.cat([log_levels(steps, 80.0, 0.02), torch.zeros(1)])
    found = law(name, sampler_model(gaussian), sigmas.double(), MEAN, math.hypot(STD, 80.0))
    assert found.mean == pytest.approx(MEAN, abs=1e-9)
    assert found.variance == pytest.approx(STD**2, rel=0.05)


@pytest.mark.parametrize(
    ("name", "claimed"),
    [
        ("euler_ancestral", 1),
        ("euler_ancestral_cfg_pp", 1),
        ("dpm_2_ancestral", 2),
        ("dpmpp_2s_ancestral", 2),
        ("dpmpp_sde", 2),
        ("dpmpp_2m_sde", 2),
        ("dpmpp_2m_sde_heun", 2),
        ("dpmpp_3m_sde", 2),
        ("er_sde", 2),
        ("seeds_2", 2),
        ("seeds_3", 2),
        ("exp_heun_2_x0_sde", 2),
        ("sa_solver", 2),
    ],
)
def test_weak_order_on_a_flow_model(name: str, claimed: int, sampler_model: Any, flow_sampling: Any) -> None:
    model = sampler_model(flow_gaussian, flow_sampling)
    last = 0.3
    options = {"tau_func": calm_or_not(1.0)} if name == "sa_solver" else {}

    def error_at(steps: int) -> float:
        logits = torch.linspace(4.0, math.log(last / (1 - last)), steps + 1, dtype=torch.float64)
        sigmas = logits.sigmoid()
        first = float(sigmas[0])
        std = math.hypot((1 - first) * STD, first)
        found = law(name, model, sigmas, (1 - first) * MEAN, std, **options)
        assert found.mean == pytest.approx((1 - last) * MEAN, abs=1e-2)
        return abs(found.variance - ((1 - last) * STD) ** 2 - last**2)

    assert order(error_at, (48, 96)) >= claimed - 0.25


def test_noise_above_the_reverse_processs_share_is_scaled(sampler_model: Any) -> None:
    """With `s_noise` the variance of the noise's part is multiplied by its square."""
    sigmas = log_levels(12, FIRST, LAST)
    for name in NOISY:
        if name in ("ddpm", "dpmpp_sde", "dpmpp_2s_ancestral_cfg_pp"):
            continue
        plain, louder, silent = (
            law(name, sampler_model(gaussian), sigmas, MEAN, 1.0, **options)
            for options in ({}, {"s_noise": 2.0}, {"s_noise": 0.0})
        )
        assert louder.variance - silent.variance == pytest.approx(4 * (plain.variance - silent.variance))


def test_lcm_with_a_consistency_function_matches_the_distribution(sampler_model: Any) -> None:
    """Luo et al. 2023, arXiv:2310.04378: each step is a draw from the data, whatever the step before gave."""

    def consistency(x: Tensor, sigma: Tensor) -> Tensor:
        return MEAN + (x - MEAN) * STD / (STD**2 + sigma**2).sqrt()

    sigmas = torch.tensor([80.0, 9.0, 2.0, 0.5, 0.0])
    found = law("lcm", sampler_model(consistency), sigmas.double(), MEAN, math.hypot(STD, 80.0))
    assert found.mean == pytest.approx(MEAN) and found.variance == pytest.approx(STD**2)
    noise = torch.randn(1, 1, 112, 112, generator=torch.Generator().manual_seed(1))
    latent = sample_lcm(sampler_model(consistency), noise * 80 + MEAN, sigmas, {"seed": 2})
    assert abs(float(latent.mean()) - MEAN) < FALSE_ALARM * STD / math.sqrt(DRAWS)
    assert abs(float(latent.var()) - STD**2) < FALSE_ALARM * STD**2 * math.sqrt(2 / (DRAWS - 1))


def test_seeds_noise_of_the_stages_adds_up_to_that_of_the_step(sampler_model: Any) -> None:
    """With a model that gives 0 the state is only noise, whose variance at the next level is known."""
    sigmas = torch.tensor([5.0, 2.0])
    x = torch.zeros(1, 1, 200, 200)
    latent = sample_seeds_3(sampler_model(lambda x, sigma: torch.zeros_like(x)), x, sigmas, {"seed": 4})
    assert latent.std().item() == pytest.approx(2.0 * math.sqrt(1 - (2 / 5) ** 2), rel=0.02)
