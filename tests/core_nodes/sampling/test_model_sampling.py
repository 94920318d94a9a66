"""Noise levels and predictions: that they invert each other, and known values."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from comfyk_core_nodes.sampling import model_sampling as levels
from comfyk_core_nodes.sampling import prediction
from comfyk_core_nodes.sampling.model_sampling import model_sampling

X0 = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
NOISE = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(1))
SIGMA = torch.tensor([0.3, 1.0, 7.0])
S = SIGMA.view(3, 1, 1, 1)


def test_levels_of_stable_diffusion() -> None:
    sampling = model_sampling(levels.ModelSamplingDiscrete, prediction.EPS)
    assert sampling.sigma_min.item() == pytest.approx(0.029167158529162407)
    assert sampling.sigma_max.item() == pytest.approx(14.614641189575195)
    timesteps = torch.tensor([0, 1, 500, 999])
    assert sampling.timestep(sampling.sigma(timesteps)).tolist() == timesteps.tolist()
    between = sampling.sigma(torch.tensor(10.5))
    assert between.item() == pytest.approx((sampling.sigmas[10] * sampling.sigmas[11]).sqrt().item())


def test_the_table_is_no_weight_and_moves_with_the_model() -> None:
    sampling = model_sampling(levels.ModelSamplingDiscrete, prediction.EPS)
    assert sampling.state_dict() == {}
    assert sampling.to("meta").sigmas.device.type == "meta"


def test_zero_terminal_snr() -> None:
    plain = model_sampling(levels.ModelSamplingDiscrete, prediction.V_PREDICTION)
    zero = model_sampling(levels.ModelSamplingDiscrete, prediction.V_PREDICTION, zsnr=True)
    assert zero.sigma_max.item() == pytest.approx(4518.7, rel=1e-3)
    assert zero.sigma_min.item() == pytest.approx(plain.sigma_min.item(), rel=1e-4)
    by_config = SimpleNamespace(sampling_settings={"zsnr": True})
    assert model_sampling(levels.ModelSamplingDiscrete, prediction.EPS, by_config).sigmas.equal(zero.sigmas)


def test_distilled_levels_are_every_twentieth() -> None:
    full = model_sampling(levels.ModelSamplingDiscrete, prediction.EPS)
    distilled = model_sampling(levels.ModelSamplingDiscreteDistilled, prediction.LCM)
    assert distilled.sigmas.tolist() == full.sigmas[19::20].tolist()
    assert distilled.timestep(distilled.sigmas[:2]).tolist() == [19, 39]
    assert distilled.sigma(torch.tensor([19, 999])).tolist() == pytest.approx(full.sigmas[[19, 999]].tolist())


@pytest.mark.parametrize("kind", ["linear", "cosine", "sqrt_linear", "sqrt"])
def test_beta_schedules(kind: str) -> None:
    betas = levels.betas_for(kind, 100, 0.0001, 0.02)
    assert betas.shape == (100,) and (betas > 0).all() and (betas < 1).all() and (betas.diff() > 0).all()


def test_unknown_beta_schedule() -> None:
    with pytest.raises(ValueError, match="'nosuch' is not known"):
        levels.betas_for("nosuch", 100, 0.1, 0.2)


@pytest.mark.parametrize(
    "kind",
    [
        levels.ModelSamplingContinuousEDM,
        levels.ModelSamplingContinuousV,
        levels.ModelSamplingDiscreteEDM,
        levels.ModelSamplingCosmosRFlow,
        levels.StableCascadeSampling,
        levels.ModelSamplingDiscreteFlow,
    ],
)
def test_sigma_and_timestep_invert_each_other(kind: Any) -> None:
    base = prediction.CONST if "Fl" in kind.__name__ else prediction.EPS
    sampling = model_sampling(kind, base)
    sigmas = sampling.sigmas[[100, 500, 800]]
    timesteps = sampling.timestep(sigmas)
    torch.testing.assert_close(sampling.sigma(timesteps), sigmas, rtol=1e-3, atol=1e-4)


def test_flow_shifts() -> None:
    sd3 = model_sampling(levels.ModelSamplingDiscreteFlow, prediction.CONST)
    sd3.set_parameters(shift=3.0)
    assert sd3.sigma(torch.tensor(500.0)).item() == pytest.approx(0.75)
    assert sd3.percent_to_sigma(0.5) == pytest.approx(0.75)
    aura = model_sampling(levels.ModelSamplingDiscreteFlow, prediction.CONST)
    aura.set_parameters(shift=1.73, multiplier=1.0)
    assert aura.timestep(torch.tensor(0.3)).item() == pytest.approx(0.3)
    assert levels.flux_shift_for(1024, 1024) == pytest.approx(1.15)
    assert levels.flux_shift_for(256, 256) == pytest.approx(0.5)
    assert levels.flux_shift(0.0, 0.4) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        (levels.ModelSamplingDiscrete, levels.BEFORE_ALL),
        (levels.ModelSamplingContinuousEDM, levels.BEFORE_ALL),
        (levels.StableCascadeSampling, levels.BEFORE_ALL),
        (levels.ModelSamplingDiscreteFlow, 1.0),
        (levels.ModelSamplingFlux, 1.0),
    ],
)
def test_percent_to_sigma(kind: Any, first: float) -> None:
    sampling = kind()
    assert sampling.percent_to_sigma(0.0) == first
    assert sampling.percent_to_sigma(1.0) == 0.0
    inner = [sampling.percent_to_sigma(percent) for percent in (0.1, 0.4, 0.9)]
    assert inner == sorted(inner, reverse=True)
    assert all(sampling.sigma_min <= sigma <= sampling.sigma_max for sigma in inner)


@pytest.mark.parametrize(
    ("kind", "output"),
    [
        (prediction.EPS, NOISE),
        (prediction.V_PREDICTION, (NOISE - S * X0) / (1 + S**2) ** 0.5),
        (prediction.X0, X0),
    ],
)
def test_a_perfect_prediction_gives_the_clean_latent(kind: Any, output: torch.Tensor) -> None:
    sampling = kind()
    noisy = sampling.noise_scaling(SIGMA, NOISE, X0)
    torch.testing.assert_close(noisy, X0 + S * NOISE)
    torch.testing.assert_close(sampling.calculate_denoised(SIGMA, output, noisy), X0, rtol=1e-4, atol=1e-4)
    assert sampling.inverse_noise_scaling(SIGMA, noisy) is noisy
    torch.testing.assert_close(sampling.calculate_input(SIGMA, noisy) * (1 + S**2) ** 0.5, noisy)


def test_edm_weights_are_those_of_karras() -> None:
    sampling = prediction.EDM()
    sampling.sigma_data = 0.5
    skip = 0.25 / (S**2 + 0.25)
    out = S * 0.5 / (S**2 + 0.25).sqrt()
    torch.testing.assert_close(sampling.calculate_denoised(SIGMA, NOISE, X0), skip * X0 + out * NOISE)


def test_flow_prediction() -> None:
    sampling = prediction.CONST()
    sigma = torch.tensor([0.1, 0.5, 0.9])
    noisy = sampling.noise_scaling(sigma, NOISE, X0)
    torch.testing.assert_close(sampling.calculate_denoised(sigma, NOISE - X0, noisy), X0)
    scaled = sampling.inverse_noise_scaling(sigma, sampling.noise_scaling(sigma, torch.zeros_like(X0), X0))
    torch.testing.assert_close(scaled, X0)


def test_lcm_leaves_a_latent_without_noise_alone() -> None:
    sampling = model_sampling(levels.ModelSamplingDiscreteDistilled, prediction.LCM)
    high = sampling.calculate_denoised(torch.tensor([10.0] * 3), NOISE, X0)
    torch.testing.assert_close(high, X0 - 10.0 * NOISE, rtol=1e-3, atol=1e-2)


def test_a_run_from_the_top_has_the_latents_variance_in_its_noise() -> None:
    zero = torch.zeros_like(NOISE)
    scaled = prediction.EPS().noise_scaling(torch.tensor(2.0), NOISE, zero, max_denoise=True)
    torch.testing.assert_close(scaled, NOISE * 5**0.5)
