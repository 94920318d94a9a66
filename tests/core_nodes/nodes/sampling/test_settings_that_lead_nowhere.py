"""Settings that a widget allows and that nothing can come of: the error says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

BETWEEN = {"steps": 5, "sigma_max": 14.6, "sigma_min": 0.0}
ADAPTIVE = {
    "order": 3,
    "rtol": 0.05,
    "atol": 0.0078,
    "h_init": 0.05,
    "pcoeff": 0.0,
    "icoeff": 1.0,
    "dcoeff": 0.0,
    "accept_safety": 0.81,
    "eta": 0.0,
    "s_noise": 1.0,
}
UPSCALE = {"positive": [], "negative": [], "noise_augmentation": 0.0}


@pytest.mark.parametrize(
    ("node", "settings", "message"),
    [
        ("ExponentialScheduler", BETWEEN, r"bounds above 0, not sigma_min 0\.0 and sigma_max 14\.6"),
        ("PolyexponentialScheduler", {**BETWEEN, "rho": 1.0}, "bounds above 0"),
        ("KarrasScheduler", {**BETWEEN, "rho": 0.0}, "no levels at a rho of 0"),
        ("BetaSamplingScheduler", {"steps": 5, "alpha": 0.0, "beta": 0.6}, "above 0, not 0.0 and 0.6"),
        ("SetFirstSigma", {"sigmas": torch.empty(0), "sigma": 1.0}, "the schedule is empty"),
        ("SamplerDPMAdaptative", {**ADAPTIVE, "h_init": 0.0}, "no step is ever taken"),
        ("SamplerDPMAdaptative", {**ADAPTIVE, "rtol": 0.0, "atol": 0.0}, "set rtol or atol above 0"),
        ("SamplerDPMAdaptative", {**ADAPTIVE, "accept_safety": 100.0}, "no step is ever accepted"),
        (
            "SamplerDPMPP_SDE",
            {"eta": 1.0, "s_noise": 1.0, "r": 0.0, "noise_device": "cpu"},
            "asked twice about the same",
        ),
        (
            "ModelSamplingContinuousEDM",
            {"sampling": "eps", "sigma_max": 0.0, "sigma_min": 0.002},
            "bounds above 0",
        ),
        (
            "ModelSamplingContinuousV",
            {"sampling": "v_prediction", "sigma_max": 500.0, "sigma_min": 0.0},
            "bounds above 0",
        ),
        (
            "ModelSamplingFlux",
            {"max_shift": 100.0, "base_shift": 0.0, "width": 16384, "height": 16384},
            "lower max_shift or the size",
        ),
        ("ModelNoiseScale", {"noise_scale": 2.0}, "only flow models"),
        (
            "SD_4XUpscale_Conditioning",
            {**UPSCALE, "images": torch.zeros(1, 32, 48, 3), "scale_ratio": 0.0},
            "0.0 times a picture of 48x32 is less than 4 pixels",
        ),
    ],
)
def test_the_error_says_what_to_do(
    node: str, settings: dict[str, Any], message: str, out: Callable[..., Any], model: Any
) -> None:
    takes_model = node in ("BetaSamplingScheduler", "ModelNoiseScale") or node.startswith("ModelSampling")
    more = {"model": model} if takes_model else {}
    with pytest.raises(ValueError, match=message):
        out(node, **more, **settings)


def test_a_shift_of_0_leaves_the_ends_of_a_run_where_they_are(out: Callable[..., Any], model: Any) -> None:
    for node in ("ModelSamplingSD3", "ModelSamplingAuraFlow"):
        sampling = out(node, model=model, shift=0.0).get_model_object("model_sampling")
        assert [sampling.percent_to_sigma(percent) for percent in (0.0, 0.5, 1.0)] == [1.0, 0.0, 0.0]


def test_one_step_of_kl_optimal_starts_at_the_top(out: Callable[..., Any], model: Any) -> None:
    sigmas = out("BasicScheduler", model=model, scheduler="kl_optimal", steps=1, denoise=1.0)
    assert sigmas.tolist() == pytest.approx([14.614642, 0.0])
