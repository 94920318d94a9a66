"""Options and unusual schedules of the samplers, against numbers of the reference on a model that is a formula.

`sampler_options.json` has what ComfyUI's samplers gave: cut, short, rising and too high schedules, and options that are
not the defaults.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfyk_core_nodes.sampling import model_sampling as levels
from comfyk_core_nodes.sampling import prediction
from comfyk_core_nodes.sampling.names import SAMPLER_NAMES
from comfyk_core_nodes.sampling.sampler_table import SAMPLERS
from torch import Tensor

from .analytic import UNIT, error, mixture


def formula(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    cond = torch.tanh(x / (1 + sigma)) + 0.3 * torch.sin(x + sigma)
    return cond, 0.5 * torch.tanh(x / (1 + sigma) - 0.4)


@pytest.mark.parametrize("name", [name for name in SAMPLER_NAMES if not name.endswith("_gpu")])
def test_options_and_unusual_schedules_are_the_references(
    name: str, facts: Any, guided_model: Any, eps_sampling: Any, flow_sampling: Any
) -> None:
    noise = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    cases = [case for case in facts("sampler_options") if case["sampler"] == name]
    assert len(cases) >= 6
    for case in cases:
        sampling = eps_sampling if case["kind"] == "eps" else flow_sampling
        model = guided_model(formula, sampling, 2.0)
        sigmas = torch.tensor(case["sigmas"])
        torch.manual_seed(5)
        latent = SAMPLERS[name](
            model, noise * sigmas[0], sigmas, {"seed": 99, "model_options": {}}, **case["options"]
        )
        assert latent.flatten()[[0, 21, 64, 127]].tolist() == pytest.approx(
            case["latent"], rel=2e-4, abs=2e-4
        ), case
        assert model.evaluations == case["calls"], case


@pytest.mark.parametrize("name", SAMPLER_NAMES)
@pytest.mark.parametrize("levels", [[], [0.0], [3.0]])
def test_no_step_changes_nothing(name: str, levels: list[float], sampler_model: Any) -> None:
    model = sampler_model(mixture)
    assert SAMPLERS[name](model, UNIT, torch.tensor(levels), {"seed": 1}).equal(UNIT)
    assert model.evaluations == 0


@pytest.mark.parametrize("name", [name for name in SAMPLER_NAMES if name not in ("uni_pc", "uni_pc_bh2")])
def test_one_step_to_zero_gives_the_denoised_latent(name: str, sampler_model: Any) -> None:
    """From one level to 0 there is nothing to choose; the DPM-Solvers stop at the last level that is not 0."""
    x = UNIT * 5.0
    latent = SAMPLERS[name](sampler_model(mixture), x, torch.tensor([5.0, 0.0]).double(), {"seed": 1})
    expected = x if name in ("dpm_fast", "dpm_adaptive") else mixture(x, torch.tensor(5.0).double())
    torch.testing.assert_close(latent, expected)


@pytest.mark.parametrize("name", ["uni_pc", "uni_pc_bh2"])
def test_uni_pc_of_one_step_stops_a_little_above_zero(name: str, sampler_model: Any) -> None:
    x = UNIT * 5.0
    latent = SAMPLERS[name](sampler_model(mixture), x, torch.tensor([5.0, 0.0]).double(), {"seed": 1})
    denoised = mixture(x, torch.tensor(5.0).double())
    torch.testing.assert_close(latent, denoised + (x - denoised) * (0.001 / 5.0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["uni_pc", "uni_pc_bh2", "euler", "dpmpp_2m"])
def test_a_picture_in_picture_out_flow_is_inverted_once_and_by_the_caller(
    name: str, guided_model: Any
) -> None:
    sampling = levels.model_sampling(levels.ModelSamplingDiscreteFlow, prediction.IMG_TO_IMG_FLOW)
    answer = UNIT.float() * 0.25
    model = guided_model(lambda x, sigma: (answer, answer), sampling, 1.0)
    latent = SAMPLERS[name](model, UNIT.float(), torch.tensor([0.9, 0.5, 0.2, 0.0]), {"seed": 1})
    torch.testing.assert_close(latent, answer, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("euler", {}),
        ("heun", {}),
        ("dpm_2", {}),
        ("lms", {}),
        ("res_multistep", {}),
        ("res_multistep_cfg_pp", {}),
        ("exp_heun_2_x0", {}),
        ("seeds_2", {"eta": 0.0}),
        ("seeds_3", {"eta": 0.0}),
        ("dpmpp_sde", {"eta": 0.0}),
        ("dpmpp_2s_ancestral", {"eta": 0.0}),
    ],
)
def test_a_level_that_comes_twice_changes_nothing(
    name: str, options: dict[str, Any], sampler_model: Any
) -> None:
    """As short tables give them for many steps."""
    x = UNIT * 9.0
    once = torch.tensor([9.0, 5.0, 3.0, 1.0, 0.5], dtype=torch.float64)
    twice = torch.tensor([9.0, 5.0, 5.0, 3.0, 1.0, 1.0, 0.5], dtype=torch.float64)
    expected = SAMPLERS[name](sampler_model(mixture), x, once, {"seed": 1}, **options)
    assert error(name, sampler_model(mixture), x, twice, expected, **options) < 1e-12


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dpmpp_2m_sde", {"solver_type": "euler"}, "solver_type is midpoint or heun, not 'euler'"),
        ("seeds_2", {"solver_type": "heun"}, "solver_type is phi_1 or phi_2, not 'heun'"),
        ("dpm_adaptive", {"order": 4}, "dpm_adaptive has the orders 2 and 3, not 4"),
        ("dpm_adaptive", {"eta": 1.0}, "adds noise .* only when sigma goes down"),
    ],
)
def test_options_out_of_range_are_named(
    name: str, options: dict[str, Any], message: str, sampler_model: Any
) -> None:
    with pytest.raises(ValueError, match=message):
        SAMPLERS[name](sampler_model(mixture), UNIT, torch.tensor([1.0, 4.0]), {"seed": 1}, **options)
