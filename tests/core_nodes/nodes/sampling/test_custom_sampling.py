"""Sampling from parts is sampling in one node; noise by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from comfyk_core_nodes.families.sd.latent_formats import SD15

from .recipes import PICTURE, mask, text

Out = Callable[..., Any]
CONDS = {"positive": [[text(1.0), {}]], "negative": [[text(-2.0), {}]]}
SCALE = SD15().scale_factor


@pytest.mark.parametrize(("sampler", "denoise"), [("euler", 1.0), ("dpmpp_2s_ancestral", 0.6)])
def test_three_ways_to_the_same_latent(out: Out, model: Any, sampler: str, denoise: float) -> None:
    latent = {**PICTURE, "noise_mask": mask("ramp"), "batch_index": [2, 0], "downscale_ratio_spacial": 8}
    whole = out(
        "KSampler",
        model=model,
        seed=11,
        steps=4,
        cfg=3.0,
        sampler_name=sampler,
        scheduler="karras",
        latent_image=latent,
        denoise=denoise,
        **CONDS,
    )
    parts = {
        "sampler": out("KSamplerSelect", sampler_name=sampler),
        "sigmas": out("BasicScheduler", model=model, scheduler="karras", steps=4, denoise=denoise),
        "latent_image": latent,
    }
    custom, denoised = out(
        "SamplerCustom", model=model, add_noise=True, noise_seed=11, cfg=3.0, **CONDS, **parts
    )
    advanced, also_denoised = out(
        "SamplerCustomAdvanced",
        noise=out("RandomNoise", noise_seed=11),
        guider=out("CFGGuider", model=model, cfg=3.0, **CONDS),
        **parts,
    )
    assert whole["samples"].equal(custom["samples"]) and whole["samples"].equal(advanced["samples"])
    assert denoised["samples"].equal(also_denoised["samples"])
    assert whole.keys() == custom.keys() == {"samples", "noise_mask", "batch_index"}
    # The last step goes to 0, where the latent is the denoised one.
    torch.testing.assert_close(denoised["samples"], custom["samples"], rtol=1e-4, atol=1e-4)


def test_the_seed_is_that_of_the_samplers_noise_too(out: Out, model: Any) -> None:
    def run(seed: int) -> torch.Tensor:
        output, _ = out(
            "SamplerCustom",
            model=model,
            add_noise=False,
            noise_seed=seed,
            cfg=3.0,
            sampler=out("SamplerEulerAncestral", eta=1.0, s_noise=1.0),
            sigmas=torch.tensor([3.0, 1.0, 0.0]),
            latent_image=PICTURE,
            **CONDS,
        )
        return output["samples"]

    assert run(1).equal(run(1)) and not run(1).equal(run(2))


def test_a_run_in_two_nodes_is_one_run(out: Out, model: Any) -> None:
    common = {
        "model": model,
        "noise_seed": 4,
        "steps": 6,
        "cfg": 3.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        **CONDS,
    }
    whole = out(
        "KSamplerAdvanced",
        add_noise="enable",
        latent_image=PICTURE,
        start_at_step=0,
        end_at_step=10000,
        return_with_leftover_noise="disable",
        **common,
    )
    first = out(
        "KSamplerAdvanced",
        add_noise="enable",
        latent_image=PICTURE,
        start_at_step=0,
        end_at_step=3,
        return_with_leftover_noise="enable",
        **common,
    )
    second = out(
        "KSamplerAdvanced",
        add_noise="disable",
        latent_image=first,
        start_at_step=3,
        end_at_step=10000,
        return_with_leftover_noise="disable",
        **common,
    )
    torch.testing.assert_close(second["samples"], whole["samples"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("sigmas", "amount"), [([3.0], 3.0), ([14.0, 5.0, 2.0], 12.0), ([1.0, 2.5], 1.5)])
def test_noise_is_added_between_two_levels(out: Out, model: Any, sigmas: list[float], amount: float) -> None:
    noise = out("RandomNoise", noise_seed=9)
    given = {"noise": noise, "sigmas": torch.tensor(sigmas), "latent_image": PICTURE}
    drawn = noise.generate_noise(PICTURE)
    noisy = out("AddNoise", model=model, **given)["samples"]
    torch.testing.assert_close(noisy, PICTURE["samples"] + amount * drawn / SCALE)
    flow = out("ModelSamplingSD3", model=model, shift=3.0)
    mixed = out("AddNoise", model=flow, **given)["samples"]
    torch.testing.assert_close(mixed, (1 - amount) * PICTURE["samples"] + amount * drawn / SCALE)


def test_an_empty_latent_gets_noise_alone_and_no_sigmas_none(out: Out, model: Any) -> None:
    noise = out("RandomNoise", noise_seed=9)
    empty = {"samples": torch.zeros(1, 4, 8, 8), "batch_index": [3]}
    given = {"model": model, "latent_image": empty}
    noisy = out("AddNoise", noise=noise, sigmas=torch.tensor([2.0, 0.0]), **given)
    torch.testing.assert_close(noisy["samples"], 2 * noise.generate_noise(empty) / SCALE)
    assert noisy["batch_index"] == [3]
    same = out("AddNoise", noise=noise, sigmas=torch.empty(0), **given)
    assert same["samples"] is empty["samples"]
    none = out("AddNoise", noise=out("DisableNoise"), sigmas=torch.tensor([2.0]), **given)
    assert not none["samples"].any()
