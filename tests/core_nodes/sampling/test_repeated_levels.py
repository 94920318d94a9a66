"""Schedules in which a noise level follows itself, as some have them with many steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from comfyk_core_nodes.sampling.sampler_table import SAMPLERS

from .analytic import gaussian

REPEATED = [
    [10.0, 5.0, 5.0, 1.0, 0.0],
    [10.0, 10.0, 5.0, 1.0, 0.0],
    [10.0, 5.0, 1.0, 1.0, 0.0],
    [10.0, 5.0, 5.0, 5.0, 0.5],
    [10.0, 5.0, 2.0, 0.5, 0.5, 0.5, 0.2, 0.0],
]
REFUSING = {
    *("dpmpp_2m", "dpmpp_2m_cfg_pp", "ipndm_v", "deis", "er_sde", "sa_solver", "sa_solver_pece", "uni_pc"),
    *("uni_pc_bh2", "dpmpp_2m_sde", "dpmpp_2m_sde_gpu", "dpmpp_2m_sde_heun"),
    *("dpmpp_2m_sde_heun_gpu", "dpmpp_3m_sde", "dpmpp_3m_sde_gpu"),
}
"""Those that divide by the distance between two levels."""


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("sigmas", REPEATED, ids=str)
def test_a_result_or_a_reason(sampler_model: Callable[..., Any], name: str, sigmas: list[float]) -> None:
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * 10
    try:
        result = SAMPLERS[name](sampler_model(gaussian), x, torch.tensor(sigmas), {"seed": 1})
    except ValueError as error:
        assert name in REFUSING
        twice = next(level for level, after in itertools.pairwise(sigmas) if level == after)
        assert f"and {twice:.4g} is there twice" in str(error)
        assert "set fewer steps or another scheduler" in str(error)
    else:
        assert result.isfinite().all()
        assert name not in REFUSING or sigmas[-3:] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("sigmas", [[], [5.0]], ids=str)
def test_no_steps(sampler_model: Callable[..., Any], name: str, sigmas: list[float]) -> None:
    x = torch.ones(1, 4, 8, 8)
    result = SAMPLERS[name](sampler_model(gaussian), x, torch.tensor(sigmas), {"seed": 1})
    assert torch.equal(result, x)
