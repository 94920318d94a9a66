"""Every sampler gives the reference's latent for the same seed, on a model that is a formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfyk_core_nodes.sampling.names import SAMPLER_NAMES
from comfyk_core_nodes.sampling.sampler_table import SAMPLERS
from comfyk_core_nodes.sampling.schedules import calculate_sigmas


def formula(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    cond = torch.tanh(x / (1 + sigma)) + 0.3 * torch.sin(x + sigma)
    return cond, 0.5 * torch.tanh(x / (1 + sigma) - 0.4)


@pytest.mark.parametrize("kind", ["eps", "flow"])
@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_latent_equals_the_references(
    name: str, kind: str, facts: Any, guided_model: Any, request: Any
) -> None:
    sampling = request.getfixturevalue(f"{kind}_sampling")
    schedule = ("karras", 10) if kind == "eps" else ("simple", 8)
    sigmas = calculate_sigmas(sampling, *schedule)
    noise = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    x = sampling.noise_scaling(sigmas[0], noise, torch.zeros_like(noise), True)
    before = x.clone(), sigmas.clone()
    seen: list[int] = []
    latent = SAMPLERS[name](
        guided_model(formula, sampling, 2.0),
        x,
        sigmas,
        extra_args={"seed": 17, "model_options": {}},
        callback=lambda step: seen.append(step["i"]),
        disable=True,
    )
    assert latent.flatten()[[0, 21, 64, 127]].tolist() == pytest.approx(
        facts("latents")[kind][name], abs=2e-4
    )
    assert x.equal(before[0]) and sigmas.equal(before[1])
    assert seen == list(range(len(seen))) and seen
