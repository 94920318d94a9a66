"""Schedules against the reference, and what every schedule keeps to."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from comfyk_core_nodes.sampling import model_sampling as levels
from comfyk_core_nodes.sampling import noise_tables, prediction, schedules
from comfyk_core_nodes.sampling.names import SAMPLER_NAMES, SCHEDULER_NAMES
from comfyk_core_nodes.sampling.sampler_table import SAMPLERS
from comfyk_core_nodes.sampling.schedules import cut_steps, sigmas_for


def model(name: str) -> Any:
    if name == "sd15":
        return levels.model_sampling(levels.ModelSamplingDiscrete, prediction.EPS)
    if name == "flux_shift1.15":
        return levels.model_sampling(levels.ModelSamplingFlux, prediction.CONST)
    sampling = levels.model_sampling(levels.ModelSamplingDiscreteFlow, prediction.CONST)
    sampling.set_parameters(shift=3.0)
    return sampling


@pytest.mark.parametrize("name", ["sd15", "sd3_shift3", "flux_shift1.15"])
@pytest.mark.parametrize("scheduler", SCHEDULER_NAMES)
@pytest.mark.parametrize("steps", [4, 20])
def test_sigmas_equal_the_references(name: str, scheduler: str, steps: int, facts: Any) -> None:
    expected = torch.tensor(facts("sigmas")[name][f"{scheduler}/{steps}"])
    sigmas = schedules.calculate_sigmas(model(name), scheduler, steps)
    assert sigmas.dtype == torch.float32
    torch.testing.assert_close(sigmas, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["sd15", "sd3_shift3", "flux_shift1.15"])
@pytest.mark.parametrize("scheduler", SCHEDULER_NAMES)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50])
def test_sigmas_fall_to_zero(name: str, scheduler: str, steps: int) -> None:
    sigmas = schedules.calculate_sigmas(model(name), scheduler, steps)
    assert sigmas.isfinite().all()
    assert sigmas[-1] == 0
    assert (sigmas[1:] < sigmas[:-1]).all()


@pytest.mark.parametrize("name", ["sd15", "sd3_shift3", "flux_shift1.15"])
@pytest.mark.parametrize("scheduler", SCHEDULER_NAMES)
@pytest.mark.parametrize("steps", [2, 3, 8, 25])
def test_sigmas_are_one_more_than_the_steps_and_start_at_the_top(
    name: str, scheduler: str, steps: int
) -> None:
    """But for `ddim_uniform`, which counts by whole strides. `beta` drops repeats: there are none with so few steps."""
    levels_of = model(name)
    sigmas = schedules.calculate_sigmas(levels_of, scheduler, steps)
    if scheduler == "ddim_uniform":
        assert abs(len(sigmas) - steps - 1) <= 2 and sigmas[0] <= levels_of.sigma_max
        return
    assert sigmas.shape == (steps + 1,)
    assert float(sigmas[0]) == pytest.approx(float(levels_of.sigma_max), rel=1e-5)


@pytest.mark.parametrize("scheduler", SCHEDULER_NAMES)
@pytest.mark.parametrize("denoise", [0.1, 0.3, 0.55, 0.9])
def test_denoise_is_the_tail_of_a_longer_schedule(scheduler: str, denoise: float) -> None:
    for steps in (2, 7, 12):
        tail = sigmas_for(Patcher(), "euler", scheduler, steps, denoise)
        longer = schedules.calculate_sigmas(model("sd15"), scheduler, int(steps / denoise))
        assert tail.tolist() == longer[-(steps + 1) :].tolist()
        assert len(tail) == steps + 1
        assert tail[0] < longer[0] or len(longer) == steps + 1


def test_unknown_scheduler() -> None:
    with pytest.raises(ValueError, match=r"'nosuch' is not known; there are simple, .*karras"):
        schedules.calculate_sigmas(model("sd15"), "nosuch", 4)


def test_what_is_offered_can_be_had() -> None:
    """The names in menus, which are known without torch, each with a function behind it."""
    assert tuple(SAMPLERS) == SAMPLER_NAMES
    for scheduler in SCHEDULER_NAMES:
        sigmas = schedules.calculate_sigmas(model("sd15"), scheduler, 4)
        assert sigmas[-1] == 0 and bool((sigmas[:-1] > sigmas[1:]).all())


class Patcher:
    def get_model_object(self, name: str) -> Any:
        return model("sd15")


def test_denoise_takes_the_end_of_a_longer_schedule(facts: Any) -> None:
    assert sigmas_for(Patcher(), "euler", "karras", 4, 0.0).shape == (0,)
    full = sigmas_for(Patcher(), "euler", "karras", 20)
    assert sigmas_for(Patcher(), "euler", "karras", 4, 0.2).tolist() == full[-5:].tolist()
    assert sigmas_for(Patcher(), "euler", "karras", 20, 0.99995).tolist() == full.tolist()
    # 13 / 0.65 is 19.999... in floating point.
    assert len(sigmas_for(Patcher(), "euler", "simple", 13, 0.65)) == 14


@pytest.mark.parametrize("sampler", ["dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2"])
def test_some_samplers_skip_the_last_level_before_zero(sampler: str) -> None:
    longer = schedules.calculate_sigmas(model("sd15"), "normal", 9)
    sigmas = sigmas_for(Patcher(), sampler, "normal", 8)
    assert sigmas.tolist() == [*longer[:-2].tolist(), 0.0]


def test_karras_is_even_in_the_root() -> None:
    roots = schedules.karras(9, 0.1, 10.0, rho=3.0)[:-1] ** (1 / 3)
    torch.testing.assert_close(roots.diff(), roots.diff()[:1].expand(8), rtol=1e-4, atol=0)


def test_polyexponential_of_rho_1_is_exponential() -> None:
    torch.testing.assert_close(schedules.polyexponential(7, 0.1, 10.0), schedules.exponential(7, 0.1, 10.0))


def test_variance_preserving_ends() -> None:
    sigmas = schedules.variance_preserving(5)
    assert sigmas[0].item() == pytest.approx(math.sqrt(math.exp(19.9 / 2 + 0.1) - 1), rel=1e-5)
    assert sigmas[-1] == 0


def test_laplace_is_symmetric_in_log_sigma() -> None:
    logs = schedules.laplace(11, 1e-3, 1e3).log()
    torch.testing.assert_close(logs + logs.flip(0), torch.zeros(11), atol=1e-4, rtol=0)


def test_sd_turbo() -> None:
    sampling = model("sd15")
    assert schedules.sd_turbo(sampling, 1).tolist() == pytest.approx([14.614641, 0.0])
    sigmas = schedules.sd_turbo(sampling, 2, denoise=0.5)
    assert sigmas.tolist() == pytest.approx([sampling.sigmas[499].item(), sampling.sigmas[399].item(), 0.0])


@pytest.mark.parametrize(("table", "steps"), [("SD1", 10), ("SDXL", 10), ("SVD", 10)])
def test_align_your_steps(table: str, steps: int) -> None:
    sigmas = noise_tables.align_your_steps(table, steps)
    assert sigmas[0].item() == pytest.approx(700.0 if table == "SVD" else 14.614641)
    assert len(sigmas) == steps + 1 and sigmas[-1] == 0
    assert noise_tables.align_your_steps(table, steps, 0.3).tolist() == sigmas[-4:].tolist()
    # Twice the steps pass through the same levels.
    assert noise_tables.align_your_steps(table, 20)[0:19:2].tolist() == pytest.approx(sigmas[:-1].tolist())
    assert noise_tables.align_your_steps(table, steps, 0.0).tolist() == []


@pytest.mark.parametrize(("table", "steps"), [("FLUX", 10), ("Wan", 20), ("Chroma", 40)])
def test_optimal_steps(table: str, steps: int) -> None:
    sigmas = noise_tables.optimal_steps(table, steps)
    assert len(sigmas) == steps + 1 and (sigmas.diff() < 0).all() and sigmas[-1] == 0
    assert len(noise_tables.optimal_steps(table, 7)) == 8


def test_gits() -> None:
    assert noise_tables.gits(0.8, 2).tolist() == pytest.approx([14.61464119, 7.49001646, 0.0])
    for coefficient in [round(0.8 + 0.05 * i, 2) for i in range(15)]:
        for steps in (2, 10, 20, 33):
            sigmas = noise_tables.gits(coefficient, steps)
            assert len(sigmas) == steps + 1 and (sigmas.diff() < 0).all()


def test_cut_steps() -> None:
    sigmas = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0])
    assert cut_steps(sigmas, None, None, False) is sigmas
    assert cut_steps(sigmas, 1, 3, False).tolist() == [3.0, 2.0, 1.0]
    assert cut_steps(sigmas, 1, 3, True).tolist() == [3.0, 2.0, 0.0]
    assert cut_steps(sigmas, 0, 10_000, True).tolist() == sigmas.tolist()
    assert cut_steps(sigmas, 4, None, False).tolist() == []
    assert sigmas.tolist() == [4.0, 3.0, 2.0, 1.0, 0.0]


@pytest.mark.parametrize("scheduler", ["normal", "sgm_uniform", "simple", "linear_quadratic"])
def test_the_end_of_a_very_long_schedule(scheduler: str) -> None:
    assert len(sigmas_for(Patcher(), "euler", scheduler, 10_000, 0.01)) == 10_001
    with pytest.raises(ValueError, match="raise denoise, or lower the steps"):
        sigmas_for(Patcher(), "euler", scheduler, 10_000, 0.0002)
