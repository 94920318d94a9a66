"""Models with a known answer, wrapped as a sampler sees a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from comfyk_core_nodes.sampling import model_sampling as levels
from comfyk_core_nodes.sampling import prediction
from torch import Tensor

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def facts() -> Callable[[str], Any]:
    """`facts("sigmas")`: what `sigmas.json` holds."""
    return lambda name: json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))


class SamplerModel:
    """`denoiser(x, sigma)` gives `(cond, uncond)`; guidance is at `scale`. sigma is shaped to multiply x."""

    def __init__(
        self, denoiser: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], sampling: Any, scale: float
    ):
        self._denoiser, self._scale = denoiser, scale
        patcher = SimpleNamespace(get_model_object=lambda name: sampling)
        self.inner_model = SimpleNamespace(model_patcher=patcher)
        self.evaluations = 0

    def __call__(self, x: Tensor, sigma: Tensor, model_options: Any = None, seed: Any = None) -> Tensor:
        assert sigma.shape == (x.shape[0],)
        self.evaluations += 1
        cond, uncond = self._denoiser(x, sigma.view(-1, *[1] * (x.ndim - 1)))
        denoised = uncond + (cond - uncond) * self._scale
        for function in (model_options or {}).get("sampler_post_cfg_function", []):
            denoised = function({"denoised": denoised, "uncond_denoised": uncond, "cond_denoised": cond})
        return denoised


@pytest.fixture
def eps_sampling() -> Any:
    return levels.model_sampling(levels.ModelSamplingDiscrete, prediction.EPS)


@pytest.fixture
def flow_sampling() -> Any:
    sampling = levels.model_sampling(levels.ModelSamplingDiscreteFlow, prediction.CONST)
    sampling.set_parameters(shift=3.0)
    return sampling


@pytest.fixture
def sampler_model(eps_sampling: Any) -> Callable[..., SamplerModel]:
    """`sampler_model(denoiser)`, where `denoiser(x, sigma)` gives one denoised latent."""

    def build(denoiser: Callable[[Tensor, Tensor], Tensor], sampling: Any = None) -> SamplerModel:
        return SamplerModel(lambda x, sigma: (denoiser(x, sigma),) * 2, sampling or eps_sampling, 1.0)

    return build


@pytest.fixture
def guided_model() -> Callable[..., SamplerModel]:
    return SamplerModel
