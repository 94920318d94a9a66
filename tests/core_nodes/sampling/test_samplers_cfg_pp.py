"""CFG++ changes where guidance enters: without guidance its samplers are the plain ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfyk_core_nodes.sampling.sampler_table import SAMPLERS
from comfyk_core_nodes.sampling.samplers.cfg_pp import sample_euler_pp
from torch import Tensor

from .analytic import UNIT, flow_gaussian, mixture

REDUCING = [
    "euler_cfg_pp",
    "euler_ancestral_cfg_pp",
    "dpmpp_2m_cfg_pp",
    "res_multistep_cfg_pp",
    "res_multistep_ancestral_cfg_pp",
    "gradient_estimation_cfg_pp",
]
SIGMAS = torch.tensor([9.0, 6.0, 3.0, 1.5, 0.5, 0.0], dtype=torch.float64)
FLOW_SIGMAS = torch.tensor([0.98, 0.9, 0.7, 0.4, 0.1, 0.0], dtype=torch.float64)


@pytest.mark.parametrize("last", [5, 6])
@pytest.mark.parametrize("name", REDUCING)
def test_with_cond_equal_to_uncond_it_is_the_plain_sampler(name: str, last: int, sampler_model: Any) -> None:
    x = UNIT * 9.0
    sigmas = SIGMAS[:last]
    plain = SAMPLERS[name.removesuffix("_cfg_pp")](sampler_model(mixture), x, sigmas, {"seed": 1})
    guided = SAMPLERS[name](sampler_model(mixture), x, sigmas, {"seed": 1})
    torch.testing.assert_close(guided, plain, rtol=1e-10, atol=1e-10)


def test_euler_pp_reduces_too(sampler_model: Any) -> None:
    x = UNIT * 9.0
    plain = SAMPLERS["euler"](sampler_model(mixture), x, SIGMAS)
    torch.testing.assert_close(sample_euler_pp(sampler_model(mixture), x, SIGMAS), plain)


@pytest.mark.parametrize("name", REDUCING)
def test_a_guider_without_an_unconditional_half_is_refused(name: str, sampler_model: Any) -> None:
    model = sampler_model(mixture)

    def prompt_alone(x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        return model(x, sigma)

    prompt_alone.inner_model = model.inner_model  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"does not compute: raise its cfg above 1"):
        SAMPLERS[name](prompt_alone, UNIT * 9.0, SIGMAS, {"seed": 1})


def test_on_a_flow_model_too(sampler_model: Any, flow_sampling: Any) -> None:
    """Without noise; with it `euler_ancestral` has another share for rectified flow."""
    plain = SAMPLERS["euler"](sampler_model(flow_gaussian, flow_sampling), UNIT, FLOW_SIGMAS)
    guided = SAMPLERS["euler_cfg_pp"](sampler_model(flow_gaussian, flow_sampling), UNIT, FLOW_SIGMAS)
    torch.testing.assert_close(guided, plain)


def test_dpmpp_2s_ancestral_cfg_pp_reduces_only_where_the_denoiser_is_constant(sampler_model: Any) -> None:
    """It moves the end of a step by the latent of the start less that of the middle."""
    x = UNIT * 9.0

    def constant(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.full_like(x, 0.3)

    def run(name: str, denoiser: Any) -> Tensor:
        return SAMPLERS[name](sampler_model(denoiser), x, SIGMAS, {"seed": 1})

    torch.testing.assert_close(
        run("dpmpp_2s_ancestral_cfg_pp", constant), run("dpmpp_2s_ancestral", constant)
    )
    assert not run("dpmpp_2s_ancestral_cfg_pp", mixture).allclose(run("dpmpp_2s_ancestral", mixture))


@pytest.mark.parametrize("name", [*REDUCING, "dpmpp_2s_ancestral_cfg_pp"])
def test_guidance_counts_and_the_callers_options_stay_as_they_are(
    name: str, guided_model: Any, eps_sampling: Any
) -> None:
    def halves(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return mixture(x, sigma) + 0.2, mixture(x, sigma)

    given: dict[str, Any] = {"seed": 1, "model_options": {"kept": True}}
    mild, strong = (
        SAMPLERS[name](guided_model(halves, eps_sampling, scale), UNIT * 9.0, SIGMAS, given)
        for scale in (1.0, 3.0)
    )
    assert (strong - mild).min() > 0.05
    assert given == {"seed": 1, "model_options": {"kept": True}}
