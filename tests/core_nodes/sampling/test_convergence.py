"""Samplers on models whose answer is known: the order of convergence, and the distribution that noise leads to."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from comfyk_core_nodes.sampling.sampler_table import SAMPLERS
from comfyk_core_nodes.sampling.samplers.lcm import sample_lcm
from comfyk_core_nodes.sampling.samplers.seeds import sample_seeds_3
from torch import Tensor

MEAN, STD = 0.7, 1.3
FIRST, LAST = 6.0, 0.4


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """The denoiser of data with this mean and deviation: its score is known."""
    return (STD**2 * x + sigma**2 * MEAN) / (STD**2 + sigma**2)


def exact(x: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """Where the probability flow ODE of that model leads."""
    return MEAN + (x - MEAN) * math.sqrt((STD**2 + sigma_next**2) / (STD**2 + sigma**2))


def flow_gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    alpha = 1 - sigma
    return MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN)


def flow_exact(x: Tensor, sigma: float, sigma_next: float) -> Tensor:
    def deviation(level: float) -> float:
        return math.hypot((1 - level) * STD, level)

    return (1 - sigma_next) * MEAN + (x - (1 - sigma) * MEAN) * deviation(sigma_next) / deviation(sigma)


X = torch.linspace(-8, 8, 8, dtype=torch.float64).view(2, 1, 2, 2)

ORDERS = {
    "euler": 1,
    "euler_cfg_pp": 1,
    "ddim": 1,
    "gradient_estimation": 1,
    "gradient_estimation_cfg_pp": 1,
    "heunpp2": 1,
    "heun": 2,
    "dpm_2": 2,
    "exp_heun_2_x0": 2,
    "dpmpp_2m": 2,
    "dpmpp_2m_cfg_pp": 2,
    "res_multistep": 2,
    "res_multistep_cfg_pp": 2,
    # The rest have higher orders once they have a history; here their first step limits them.
    "lms": 2,
    "ipndm": 2,
    "ipndm_v": 2,
    "deis": 2,
    "uni_pc": 2,
    "uni_pc_bh2": 2,
}


def errors(
    name: str, model: Any, steps: tuple[int, int], uniform: bool = False, **options: Any
) -> list[float]:
    found = []
    for count in steps:
        if uniform:
            sigmas = torch.linspace(FIRST, LAST, count + 1, dtype=torch.float64)
        else:
            ends = math.log(FIRST), math.log(LAST)
            sigmas = torch.linspace(*ends, count + 1, dtype=torch.float64).exp()
        latent = SAMPLERS[name](model, X, sigmas, {"seed": 1}, **options)
        found.append(float((latent - exact(X, FIRST, LAST)).abs().max()))
    return found


@pytest.mark.parametrize("name", ORDERS)
def test_order_on_a_gaussian(name: str, sampler_model: Any) -> None:
    coarse, fine = errors(name, sampler_model(gaussian), (32, 64), uniform=name == "ipndm")
    assert fine < 0.1
    assert coarse / fine >= 2 ** (ORDERS[name] - 0.5)


@pytest.mark.parametrize(
    ("name", "options", "order"),
    [
        ("dpmpp_2m_sde", {"eta": 0.0}, 2),
        ("dpmpp_2m_sde_heun", {"eta": 0.0}, 2),
        ("dpmpp_3m_sde", {"eta": 0.0}, 2),
        ("dpmpp_sde", {"eta": 0.0}, 2),
        ("seeds_2", {"eta": 0.0}, 2),
        ("seeds_3", {"eta": 0.0}, 3),
        ("sa_solver", {"tau_func": lambda sigma: 0.0}, 2),
        ("er_sde", {"noise_scaler": lambda ratio: ratio, "s_noise": 0.0}, 2),
        ("dpmpp_2s_ancestral", {"eta": 0.0}, 2),
        ("dpm_2_ancestral", {"eta": 0.0}, 2),
        ("euler_ancestral", {"eta": 0.0}, 1),
        ("res_multistep_ancestral", {"eta": 0.0}, 2),
    ],
)
def test_order_of_stochastic_samplers_without_noise(
    name: str, options: dict[str, Any], order: int, sampler_model: Any
) -> None:
    coarse, fine = errors(name, sampler_model(gaussian), (32, 64), **options)
    assert coarse / fine >= 2 ** (order - 0.5)


def late(x: Tensor, sigma: Tensor) -> Tensor:
    """A model that is constant at first, which every sampler solves exactly: so a history is there when it counts."""
    share = ((math.log(FIRST) - sigma.log()) / math.log(FIRST / LAST) - 0.35).clamp(min=0) / 0.65
    return share**7 * gaussian(x, sigma)


@pytest.fixture(scope="module")
def late_answer() -> Tensor:
    """The same ODE, by SciPy in many small steps."""
    from scipy.integrate import solve_ivp

    def slope(sigma: float, x: Any) -> Any:
        state = torch.from_numpy(x)
        return ((state - late(state, torch.tensor(sigma, dtype=torch.float64))) / sigma).numpy()

    solved = solve_ivp(
        slope, (FIRST, LAST), X.flatten().numpy(), "DOP853", rtol=1e-12, atol=1e-13, max_step=0.05
    )
    return torch.from_numpy(solved.y[:, -1]).view(X.shape)


@pytest.mark.parametrize(
    ("name", "order", "steps", "options"),
    [
        ("lms", 4, 80, {}),
        ("lms", 3, 80, {"order": 3}),
        ("ipndm", 4, 640, {}),
        ("ipndm", 3, 640, {"max_order": 3}),
        ("deis", 3, 40, {}),
        ("dpmpp_2m", 2, 40, {}),
        # As k-diffusion has it: of order 3 it would be with twice the weight on the second difference.
        ("dpmpp_3m_sde", 2, 40, {"eta": 0.0}),
        # Order 4 inside; its last step is of order 1.
        ("uni_pc", 2, 40, {}),
        ("uni_pc_bh2", 2, 40, {}),
        # Order 3 but for the sums of 200 points that stand for its integrals.
        ("er_sde", 2, 20, {"noise_scaler": lambda ratio: ratio, "s_noise": 0.0}),
        ("sa_solver", 4, 80, {"tau_func": lambda sigma: 0.0}),
        ("sa_solver_pece", 4, 80, {"tau_func": lambda sigma: 0.0}),
    ],
)
def test_order_of_multistep_samplers_with_a_history(
    name: str, order: int, steps: int, options: dict[str, Any], sampler_model: Any, late_answer: Tensor
) -> None:
    found = []
    for count in (steps, 2 * steps):
        if name == "ipndm":
            sigmas = torch.linspace(FIRST, LAST, count + 1, dtype=torch.float64)
        else:
            sigmas = torch.linspace(math.log(FIRST), math.log(LAST), count + 1, dtype=torch.float64).exp()
        latent = SAMPLERS[name](sampler_model(late), X, sigmas, {"seed": 1}, **options)
        found.append(float((latent - late_answer).abs().max()))
    assert found[0] / found[1] >= 2 ** (order - 0.5), found


def test_dpm_fast_converges_with_its_evaluations(sampler_model: Any) -> None:
    model = sampler_model(gaussian)
    coarse, fine = (float((_fast(model, n) - exact(X, FIRST, LAST)).abs().max()) for n in (24, 48))
    # Steps of order 3, but for the last two.
    assert coarse / fine >= 2**1.5
    model.evaluations = 0
    _fast(model, 12)
    assert model.evaluations == 12


def _fast(model: Any, evaluations: int) -> Tensor:
    sigmas = torch.linspace(FIRST, LAST, evaluations + 1, dtype=torch.float64)
    return SAMPLERS["dpm_fast"](model, X, sigmas)


def test_dpm_adaptive_keeps_to_its_tolerance(sampler_model: Any) -> None:
    sigmas = torch.tensor([FIRST, LAST], dtype=torch.float64)
    for order in (2, 3):
        for tolerance in (0.05, 0.005, 0.0005):
            latent = SAMPLERS["dpm_adaptive"](
                sampler_model(gaussian), X, sigmas, order=order, rtol=tolerance, atol=tolerance / 6
            )
            error = (latent - exact(X, FIRST, LAST)).abs() / latent.abs()
            assert error.max() < 3 * tolerance


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (1.0, 0.0)])
def test_dpm_solver_refuses_zero(bounds: tuple[float, float], sampler_model: Any) -> None:
    from comfyk_core_nodes.sampling.samplers.dpm_solver import sample_dpm_adaptive, sample_dpm_fast

    for sampler in (sample_dpm_adaptive, partial(sample_dpm_fast, n=6)):
        with pytest.raises(ValueError, match="cannot start or end at sigma 0"):
            sampler(sampler_model(gaussian), X, *bounds)


FLOW_ORDERS = {"euler": 1, "heun": 2, "dpm_2": 2, "exp_heun_2_x0": 2, "lms": 2, "sa_solver": 2, "er_sde": 2}


@pytest.mark.parametrize("name", FLOW_ORDERS)
def test_order_on_a_flow_model(name: str, sampler_model: Any, flow_sampling: Any) -> None:
    options: dict[str, Any] = {
        "sa_solver": {"tau_func": lambda sigma: 0.0},
        "er_sde": {"noise_scaler": lambda ratio: ratio, "s_noise": 0.0},
    }.get(name, {})
    found = []
    for count in (32, 64):
        sigmas = torch.linspace(0.95, 0.2, count + 1, dtype=torch.float64)
        latent = SAMPLERS[name](
            sampler_model(flow_gaussian, flow_sampling), X, sigmas, {"seed": 1}, **options
        )
        found.append(float((latent - flow_exact(X, 0.95, 0.2)).abs().max()))
    assert found[0] / found[1] >= 2 ** (FLOW_ORDERS[name] - 0.5)


STOCHASTIC = [
    "euler_ancestral",
    "euler_ancestral_cfg_pp",
    "dpm_2_ancestral",
    "dpmpp_2s_ancestral",
    "dpmpp_sde",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_heun",
    "dpmpp_3m_sde",
    "ddpm",
    "res_multistep_ancestral",
    "res_multistep_ancestral_cfg_pp",
    "er_sde",
    "seeds_2",
    "seeds_3",
    "exp_heun_2_x0_sde",
    "sa_solver",
    "sa_solver_pece",
]


FIRST_ORDER = ("euler_ancestral", "euler_ancestral_cfg_pp", "ddpm")


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_samplers_match_the_distribution(name: str, sampler_model: Any) -> None:
    steps = 320 if name in FIRST_ORDER else 80
    sigmas = torch.cat([torch.linspace(math.log(80), math.log(0.02), steps).exp(), torch.zeros(1)])
    noise = torch.randn(1, 1, 112, 112, generator=torch.Generator().manual_seed(1))
    latent = SAMPLERS[name](sampler_model(gaussian), noise * 80 + MEAN, sigmas, {"seed": 2})
    assert latent.mean().item() == pytest.approx(MEAN, abs=0.04)
    assert latent.std().item() == pytest.approx(STD, rel=0.04)
    # A path of its own: hardly anything is left of where it started.
    again = SAMPLERS[name](sampler_model(gaussian), noise * 80 + MEAN, sigmas, {"seed": 3})
    correlation = torch.corrcoef(torch.stack([latent.flatten(), again.flatten()]))[0, 1]
    assert correlation < 0.9


@pytest.mark.parametrize(
    "name", ["euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral", "seeds_3", "dpmpp_sde"]
)
def test_stochastic_samplers_match_the_distribution_of_a_flow_model(
    name: str, sampler_model: Any, flow_sampling: Any
) -> None:
    sigmas = torch.linspace(1, 0, 81)
    noise = torch.randn(1, 1, 112, 112, generator=torch.Generator().manual_seed(1))
    latent = SAMPLERS[name](sampler_model(flow_gaussian, flow_sampling), noise, sigmas, {"seed": 2})
    assert latent.mean().item() == pytest.approx(MEAN, abs=0.04)
    assert latent.std().item() == pytest.approx(STD, rel=0.04)


def test_lcm_with_a_consistency_function_matches_the_distribution(sampler_model: Any) -> None:
    def consistency(x: Tensor, sigma: Tensor) -> Tensor:
        return MEAN + (x - MEAN) * STD / (STD**2 + sigma**2).sqrt()

    sigmas = torch.tensor([80.0, 9.0, 2.0, 0.5, 0.0])
    noise = torch.randn(1, 1, 112, 112, generator=torch.Generator().manual_seed(1))
    latent = sample_lcm(sampler_model(consistency), noise * 80 + MEAN, sigmas, {"seed": 2})
    assert latent.mean().item() == pytest.approx(MEAN, abs=0.03)
    assert latent.std().item() == pytest.approx(STD, rel=0.03)


def test_seeds_noise_of_the_stages_adds_up_to_that_of_the_step(sampler_model: Any) -> None:
    """With a model that gives 0 the state is only noise, whose variance at the next level is known."""
    sigmas = torch.tensor([5.0, 2.0])
    x = torch.zeros(1, 1, 200, 200)
    latent = sample_seeds_3(sampler_model(lambda x, sigma: torch.zeros_like(x)), x, sigmas, {"seed": 4})
    assert latent.std().item() == pytest.approx(2.0 * math.sqrt(1 - (2 / 5) ** 2), rel=0.02)


@pytest.mark.parametrize("name", ["dpmpp_2m_sde", "dpmpp_sde", "dpmpp_3m_sde"])
def test_empty_schedules_change_nothing(name: str, sampler_model: Any) -> None:
    assert SAMPLERS[name](sampler_model(gaussian), X, torch.tensor([1.0])) is X
