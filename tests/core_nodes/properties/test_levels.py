"""Noise levels and their inverses, for every pair of levels and prediction that a model has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfyk_core_nodes.sampling import model_sampling as levels
from comfyk_core_nodes.sampling import prediction
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import drawn

PAIRS: list[tuple[Any, Any]] = [
    (levels.ModelSamplingDiscrete, prediction.EPS),
    (levels.ModelSamplingDiscrete, prediction.V_PREDICTION),
    (levels.ModelSamplingDiscreteDistilled, prediction.LCM),
    (levels.ModelSamplingContinuousEDM, prediction.EDM),
    (levels.ModelSamplingContinuousV, prediction.V_PREDICTION),
    (levels.ModelSamplingCosmosRFlow, prediction.COSMOS_RFLOW),
    (levels.ModelSamplingDiscreteFlow, prediction.CONST),
    (levels.ModelSamplingFlux, prediction.CONST),
    (levels.StableCascadeSampling, prediction.EPS),
]


@pytest.fixture(scope="module", params=PAIRS, ids=lambda pair: f"{pair[0].__name__}-{pair[1].__name__}")
def sampling(request: Any) -> Any:
    return levels.model_sampling(*request.param)


def test_the_timestep_of_the_level_of_a_timestep_is_that_timestep(sampling: Any) -> None:
    """But for shifted flows: their network is told the shifted level itself."""
    if isinstance(sampling, levels.ModelSamplingFlux):
        assert sampling.timestep(sampling.sigmas) is sampling.sigmas
        return
    for sigma in sampling.sigmas[:: max(1, len(sampling.sigmas) // 50)]:
        timestep = sampling.timestep(sigma)
        assert float(sampling.timestep(sampling.sigma(timestep))) == pytest.approx(float(timestep), rel=1e-3)
        assert float(sampling.sigma(timestep)) == pytest.approx(float(sigma), rel=1e-3)


def test_levels_rise_and_shares_of_a_run_fall(sampling: Any) -> None:
    assert (sampling.sigmas.diff() >= 0).all()
    shares = [sampling.percent_to_sigma(percent / 20) for percent in range(21)]
    assert shares == sorted(shares, reverse=True) and shares[-1] == 0


@given(share=st.floats(0.01, 0.9), seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_noise_comes_off_as_it_went_on(sampling: Any, share: float, seed: int) -> None:
    """A latent that is noised, denoised perfectly and brought back is the latent."""
    latent, noise = drawn(2, 4, 3, 3, seed=seed).double(), drawn(2, 4, 3, 3, seed=seed + 100).double()
    sigma = sampling.sigmas[int(share * len(sampling.sigmas))].double()
    noisy = sampling.noise_scaling(sigma, noise, latent)
    flow = levels.is_flow(sampling)
    signal = (1 - sigma) * latent if flow else latent
    torch.testing.assert_close(noisy - sigma * noise, signal)
    # Without noise, leaving a level undoes entering it.
    still = sampling.noise_scaling(sigma, torch.zeros_like(noise), latent)
    torch.testing.assert_close(sampling.inverse_noise_scaling(sigma, still), latent)
