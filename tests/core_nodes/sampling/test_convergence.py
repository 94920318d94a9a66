"""The order of every sampler, measured where its paper claims one: on the flow of a Gaussian mixture, in float64.

Unless a test says otherwise the levels are even in lambda and do not end in 0: a step to 0 is one of order 1.
Samplers that add noise are here without it, which is the order of the method beneath; `test_distribution.py` has
them with it.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from comfyk_core_nodes.sampling.sampler_table import SAMPLERS
from comfyk_core_nodes.sampling.samplers.dpm_solver import sample_dpm_adaptive, sample_dpm_fast
from torch import Tensor

from .analytic import (
    FIRST,
    LAST,
    MEAN,
    STD,
    UNIT,
    error,
    even_levels,
    flow_exact,
    flow_gaussian,
    gaussian,
    log_levels,
    mixture,
    mixture_flow,
    order,
)

X = UNIT * FIRST
MARGIN = 0.25
"""What a measured order may lack, far from infinitely many steps."""

NEAR, NEAR_X = 6.0, UNIT * 6.0


@pytest.fixture(scope="module")
def answer() -> Tensor:
    return mixture_flow(X, FIRST, LAST)


@pytest.fixture(scope="module")
def near_answer() -> Tensor:
    return mixture_flow(NEAR_X, NEAR, LAST)


def calm(sigma: Any) -> float:
    return 0.0


def same(ratio: Tensor) -> Tensor:
    return ratio


NO_NOISE: dict[str, Any] = {"eta": 0.0}
ODE: dict[str, Any] = {"noise_scaler": same, "s_noise": 0.0}

CLAIMS: list[tuple[str, dict[str, Any], int, tuple[int, int]]] = [
    # DDIM is Euler's method in sigma (Song et al. 2020, arXiv:2010.02502, sec. 4.3; Karras et al. 2022, sec. 3).
    ("euler", {}, 1, (20, 40)),
    ("ddim", {}, 1, (20, 40)),
    ("euler_ancestral", NO_NOISE, 1, (20, 40)),
    # CFG++ (Chung et al. 2024, arXiv:2406.08070) changes where guidance enters, not the solver.
    ("euler_cfg_pp", {}, 1, (20, 40)),
    ("euler_ancestral_cfg_pp", NO_NOISE, 1, (20, 40)),
    # Karras et al. 2022, arXiv:2206.00364, algorithm 1: order 2.
    ("heun", {}, 2, (20, 40)),
    # After DPM-Solver-2 (Lu et al. 2022, arXiv:2206.00927, theorem 3.2), with slopes in sigma.
    ("dpm_2", {}, 2, (20, 40)),
    ("dpm_2_ancestral", NO_NOISE, 2, (20, 40)),
    # Adams-Bashforth of `order` steps, with exact weights for any grid.
    ("lms", {"order": 1}, 1, (20, 40)),
    ("lms", {"order": 2}, 2, (40, 80)),
    ("lms", {"order": 3}, 3, (80, 160)),
    ("lms", {}, 4, (80, 160)),
    # tAB-DEIS (Zhang and Chen 2022, arXiv:2204.13902, sec. 3.3): as many past slopes as orders.
    ("deis", {"max_order": 2}, 2, (40, 80)),
    ("deis", {}, 3, (40, 80)),
    ("deis", {"max_order": 4}, 4, (40, 80)),
    # DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095, theorem 4.1 and proposition 4.2): 2S and 2M are of order 2.
    ("dpmpp_2s_ancestral", NO_NOISE, 2, (20, 40)),
    ("dpmpp_sde", NO_NOISE, 2, (20, 40)),
    ("dpmpp_sde", {**NO_NOISE, "r": 0.3}, 2, (20, 40)),
    ("dpmpp_2m", {}, 2, (20, 40)),
    ("dpmpp_2m_cfg_pp", {}, 2, (20, 40)),
    ("dpmpp_2m_sde", NO_NOISE, 2, (20, 40)),
    ("dpmpp_2m_sde_heun", NO_NOISE, 2, (20, 40)),
    # RES (Zhang et al. 2023, arXiv:2308.02157): the multistep form of order 2.
    ("res_multistep", {}, 2, (20, 40)),
    ("res_multistep_cfg_pp", {}, 2, (20, 40)),
    ("res_multistep_ancestral", NO_NOISE, 2, (20, 40)),
    ("res_multistep_ancestral_cfg_pp", NO_NOISE, 2, (20, 40)),
    # SEEDS (Gonzalez et al. 2023, arXiv:2305.14267): without noise, exponential methods of as many orders as stages.
    ("seeds_2", NO_NOISE, 2, (20, 40)),
    ("seeds_2", {**NO_NOISE, "r": 0.3}, 2, (20, 40)),
    ("seeds_2", {**NO_NOISE, "solver_type": "phi_2"}, 2, (20, 40)),
    ("seeds_3", NO_NOISE, 3, (40, 80)),
    ("exp_heun_2_x0", {}, 2, (20, 40)),
    ("exp_heun_2_x0", {"solver_type": "phi_1"}, 2, (20, 40)),
    ("exp_heun_2_x0_sde", NO_NOISE, 2, (20, 40)),
    # SA-Solver (Xue et al. 2023, arXiv:2309.05019, theorem 5.1): h**s for a predictor of s steps with tau 0, and one
    # more order for the corrector of as many steps.
    ("sa_solver", {"tau_func": calm, "predictor_order": 2, "corrector_order": 0}, 2, (20, 40)),
    ("sa_solver", {"tau_func": calm, "predictor_order": 3, "corrector_order": 0}, 3, (40, 80)),
    ("sa_solver", {"tau_func": calm, "predictor_order": 2, "corrector_order": 3}, 3, (40, 80)),
    ("sa_solver", {"tau_func": calm}, 4, (40, 80)),
    ("sa_solver_pece", {"tau_func": calm}, 4, (40, 80)),
]


def _label(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return ",".join(f"{key}={getattr(option, '__name__', option)}" for key, option in value.items())


@pytest.mark.parametrize(("name", "options", "claimed", "steps"), CLAIMS, ids=_label)
def test_order_is_the_papers(
    name: str,
    options: dict[str, Any],
    claimed: int,
    steps: tuple[int, int],
    sampler_model: Any,
    answer: Tensor,
) -> None:
    found = order(lambda n: error(name, sampler_model(mixture), X, log_levels(n), answer, **options), steps)
    assert found >= claimed - MARGIN


@pytest.mark.parametrize(
    ("name", "max_order", "claimed", "steps"),
    [
        ("ipndm", 2, 2, (40, 80)),
        ("ipndm", 3, 3, (160, 320)),
        ("ipndm", 4, 4, (160, 320)),
        ("ipndm_v", 2, 2, (40, 80)),
        ("ipndm_v", 3, 3, (160, 320)),
        ("ipndm_v", 4, 3, (160, 320)),
    ],
)
def test_order_of_ipndm_on_equal_steps(
    name: str, max_order: int, claimed: int, steps: tuple[int, int], sampler_model: Any, near_answer: Tensor
) -> None:
    """iPNDM (Zhang and Chen 2022, arXiv:2204.13902, sec. 4) has the classical weights, so its order is for a grid
    that is even in sigma. The variable form is the same there up to three slopes; with four, the third difference
    weighs 11/24 where order 4 needs 9/24, in the field as here.
    """

    def error_at(count: int) -> float:
        sigmas = even_levels(count, NEAR, LAST)
        return error(name, sampler_model(mixture), NEAR_X, sigmas, near_answer, max_order=max_order)

    assert order(error_at, steps) >= claimed - MARGIN


@pytest.mark.parametrize("max_order", [2, 3, 4])
def test_ipndm_is_of_order_2_on_unequal_steps(max_order: int, sampler_model: Any, answer: Tensor) -> None:
    """The weights are off by as much as neighbouring steps differ, O(h), and that times a difference of slopes and the
    step is an error of h**3 in each step: the third and the fourth order are lost, the second is not.
    """
    found = order(
        lambda n: error("ipndm", sampler_model(mixture), X, log_levels(n), answer, max_order=max_order),
        (40, 80),
    )
    assert 2 - MARGIN <= found <= 2 + MARGIN


@pytest.mark.parametrize(("max_order", "claimed"), [(2, 2), (3, 3), (4, 3)])
def test_ipndm_v_is_of_order_3_on_unequal_steps(
    max_order: int, claimed: int, sampler_model: Any, answer: Tensor
) -> None:
    """Of the weights only those of two slopes are Adams-Bashforth's for any grid; on one that is even in lambda what
    three and four leave is an error of h**4 in each step.
    """
    found = order(
        lambda n: error("ipndm_v", sampler_model(mixture), X, log_levels(n), answer, max_order=max_order),
        (160, 320),
    )
    assert claimed - MARGIN <= found <= claimed + MARGIN


def test_heunpp2_is_of_order_1(sampler_model: Any, answer: Tensor, near_answer: Tensor) -> None:
    """Heun++ has no paper. Its slopes ahead weigh `level / (3 * sigmas[0])`, which changes along the run, where order 2
    needs that the weights times how far ahead they are, in steps, sum to 1/2.
    """
    model = sampler_model(mixture)
    by_lambda = order(lambda n: error("heunpp2", model, X, log_levels(n), answer), (20, 40))
    by_sigma = order(
        lambda n: error("heunpp2", model, NEAR_X, even_levels(n, NEAR, LAST), near_answer), (20, 40)
    )
    assert 0.9 <= by_lambda <= 1.2 and 0.9 <= by_sigma <= 1.2


@pytest.mark.parametrize(("gamma", "claimed"), [(2.0, 1), (1.5, 2), (1.0, 1)])
@pytest.mark.parametrize("name", ["gradient_estimation", "gradient_estimation_cfg_pp"])
def test_order_of_gradient_estimation_depends_on_gamma(
    name: str, gamma: float, claimed: int, sampler_model: Any, near_answer: Tensor
) -> None:
    """Permenter and Yuan 2023 (arXiv:2306.04848) claim none. On equal steps 3/2 is Adams-Bashforth of order 2; 1 is
    Euler's method; their 2 looks as far beyond order 2 as Euler's method stays behind it.
    """

    def error_at(count: int) -> float:
        sigmas = even_levels(count, NEAR, LAST)
        return error(name, sampler_model(mixture), NEAR_X, sigmas, near_answer, ge_gamma=gamma)

    assert claimed - MARGIN <= order(error_at, (80, 160)) <= claimed + MARGIN


def test_dpmpp_3m_sde_is_of_order_2(sampler_model: Any, answer: Tensor) -> None:
    """The divided difference of second order stands for half of the second derivative, and its integral is
    `2 * phi_3`; it weighs `phi_3`, here as in k-diffusion. The other half is an error of h**3 in each step.
    """
    found = order(
        lambda n: error("dpmpp_3m_sde", sampler_model(mixture), X, log_levels(n), answer, eta=0.0), (80, 160)
    )
    assert 1.8 <= found <= 2.3


@pytest.mark.parametrize(("stages", "claimed"), [(1, 1), (2, 2), (3, 2)])
def test_order_of_er_sde_by_stages(stages: int, claimed: int, sampler_model: Any, answer: Tensor) -> None:
    """ER-SDE-Solver (Cui et al. 2023, arXiv:2309.06169), with the phi of the probability flow. The third stage adds the
    second derivative, but the first one is a difference of the last step, right half a step back: an error of h**3 in
    each step stays.
    """
    options = {**ODE, "max_stage": stages}
    found = order(
        lambda n: error("er_sde", sampler_model(mixture), X, log_levels(n), answer, **options), (20, 40)
    )
    assert claimed - MARGIN <= found <= claimed + 0.4


def test_er_sde_of_many_steps_is_limited_by_its_sums(sampler_model: Any, answer: Tensor) -> None:
    """200 points stand for each integral, to one order: a 400th of the second-order term stays in each step."""
    errors = [
        error("er_sde", sampler_model(mixture), X, log_levels(count), answer, **ODE)
        for count in (20, 40, 80, 160)
    ]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert orders == sorted(orders, reverse=True)
    assert 1.7 <= orders[-1] <= 1.9


@pytest.mark.parametrize(("r_1", "r_2", "claimed"), [(1 / 3, 2 / 3, 3), (0.25, 0.5, 2)])
def test_seeds_3_is_of_order_3_only_with_its_last_stage_at_two_thirds(
    r_1: float, r_2: float, claimed: int, sampler_model: Any, answer: Tensor
) -> None:
    """The end takes the slope from the start to the last stage: the second derivative has its right weight,
    `2 * phi_3 = r_2 * phi_2` at h = 0, for two thirds.
    """
    options = {"eta": 0.0, "r_1": r_1, "r_2": r_2}
    found = order(
        lambda n: error("seeds_3", sampler_model(mixture), X, log_levels(n), answer, **options), (40, 80)
    )
    assert claimed - MARGIN <= found <= claimed + 0.3


@pytest.fixture(scope="module")
def answer_on_the_way() -> Tensor:
    return mixture_flow(X, FIRST, float(log_levels(4)[3]))


@pytest.mark.parametrize("name", ["uni_pc", "uni_pc_bh2"])
def test_uni_pc_is_of_order_4_up_to_its_last_steps(
    name: str, sampler_model: Any, answer_on_the_way: Tensor
) -> None:
    """UniPC-3 (Zhao et al. 2023, arXiv:2302.04867, theorem 3.1 and proposition 3.2): order 3, and one more by the
    corrector. Measured at three quarters of the way, before orders go down.
    """

    def error_at(count: int) -> float:
        states: dict[int, Tensor] = {}

        def keep(step: dict[str, Any]) -> None:
            states[step["i"]] = step["x"]

        SAMPLERS[name](sampler_model(mixture), X, log_levels(count), callback=keep)
        return float((states[count * 3 // 4] - answer_on_the_way).abs().max())

    assert order(error_at, (20, 40)) >= 4 - MARGIN


@pytest.mark.parametrize("name", ["uni_pc", "uni_pc_bh2"])
def test_uni_pc_is_of_order_2_at_its_end(name: str, sampler_model: Any, answer: Tensor) -> None:
    """The last step is of order 1: its error of h**2 is the whole run's."""
    found = order(lambda n: error(name, sampler_model(mixture), X, log_levels(n), answer), (20, 40))
    assert 2 - MARGIN <= found <= 2 + MARGIN


@pytest.mark.parametrize(("rest", "claimed"), [(0, 2), (1, 2), (2, 3)])
def test_order_of_dpm_fast_by_its_last_step(
    rest: int, claimed: int, sampler_model: Any, answer: Tensor
) -> None:
    """DPM-Solver-Fast (Lu et al. 2022, arXiv:2206.00927, sec. 3.4): steps of DPM-Solver-3, order 3. A number of
    evaluations that is 2 above a multiple of three ends in a step of order 2, whose error is h**3; the others end in
    one of order 1.
    """

    def error_at(evaluations: int) -> float:
        sigmas = log_levels(3 * evaluations + rest)
        model = sampler_model(mixture)
        found = error("dpm_fast", model, X, sigmas, answer)
        assert model.evaluations == len(sigmas) - 1
        return found

    assert order(error_at, (16, 32)) >= claimed - MARGIN


def test_order_of_dpm_adaptive_in_its_evaluations(sampler_model: Any, answer: Tensor) -> None:
    """DPM-Solver-12 and -23 (arXiv:2206.00927, appendix C): what more evaluations gain is the higher order of each."""
    for claimed, tolerances in ((2, (3e-3, 3e-5)), (3, (3e-4, 3e-6))):
        found, evaluations = [], []
        for tolerance in tolerances:
            model = sampler_model(mixture)
            options = {"order": claimed, "rtol": tolerance, "atol": tolerance}
            found.append(error("dpm_adaptive", model, X, log_levels(1), answer, **options))
            evaluations.append(model.evaluations)
            assert found[-1] < 10 * tolerance
        assert math.log(found[0] / found[1]) / math.log(evaluations[1] / evaluations[0]) >= claimed - MARGIN


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (1.0, 0.0)])
def test_dpm_solver_refuses_zero(bounds: tuple[float, float], sampler_model: Any) -> None:
    for sampler in (sample_dpm_adaptive, partial(sample_dpm_fast, n=6)):
        with pytest.raises(ValueError, match="cannot start or end at sigma 0"):
            sampler(sampler_model(gaussian), X, *bounds)


def test_dpmpp_2s_ancestral_cfg_pp_converges_to_another_flow(sampler_model: Any) -> None:
    """Its end starts from `x` moved by the guided latent of the start less the unguided one of the middle. Without
    guidance that adds, in the limit, `-1/2` of the denoiser's change along the flow, and on a Gaussian whose denoiser
    is `a * x + b` the deviation is `exp(-(a_end - a_start) / 4)` of the right one. So it is in the field.
    """

    def share(sigma: float) -> float:
        return STD**2 / (STD**2 + sigma**2)

    shrink = math.exp((share(FIRST) - share(LAST)) / 4)
    right = math.sqrt((STD**2 + LAST**2) / (STD**2 + FIRST**2))
    limit = MEAN + (X - MEAN) * right * shrink
    model = sampler_model(gaussian)
    found = order(
        lambda n: error("dpmpp_2s_ancestral_cfg_pp", model, X, log_levels(n), limit, eta=0.0), (40, 80)
    )
    assert 0.8 <= found <= 1.2


FLOW_CLAIMS: list[tuple[str, dict[str, Any], int]] = [
    ("euler", {}, 1),
    ("euler_ancestral", NO_NOISE, 1),
    ("euler_cfg_pp", {}, 1),
    ("heun", {}, 2),
    ("dpm_2", {}, 2),
    ("dpm_2_ancestral", NO_NOISE, 2),
    ("dpmpp_2s_ancestral", NO_NOISE, 2),
    ("dpmpp_sde", NO_NOISE, 2),
    ("dpmpp_2m_sde", NO_NOISE, 2),
    ("dpmpp_2m_sde_heun", NO_NOISE, 2),
    ("dpmpp_3m_sde", NO_NOISE, 2),
    ("exp_heun_2_x0", {}, 2),
    ("seeds_2", NO_NOISE, 2),
    ("seeds_3", NO_NOISE, 3),
    ("er_sde", ODE, 2),
    ("sa_solver", {"tau_func": calm}, 4),
    ("sa_solver_pece", {"tau_func": calm}, 4),
]


@pytest.mark.parametrize(("name", "options", "claimed"), FLOW_CLAIMS, ids=_label)
def test_order_on_a_flow_model(
    name: str, options: dict[str, Any], claimed: int, sampler_model: Any, flow_sampling: Any
) -> None:
    """The samplers that know rectified flow, on levels even in lambda, which is `log((1 - sigma) / sigma)` there."""
    sampling_model, last = sampler_model(flow_gaussian, flow_sampling), 0.2

    def error_at(count: int) -> float:
        sigmas = torch.linspace(9.0, math.log(last / (1 - last)), count + 1, dtype=torch.float64).sigmoid()
        return error(name, sampling_model, UNIT, sigmas, flow_exact(UNIT, float(sigmas[0]), last), **options)

    assert order(error_at, (60, 120) if claimed == 4 else (40, 80)) >= claimed - MARGIN
