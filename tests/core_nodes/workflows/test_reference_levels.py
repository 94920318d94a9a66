"""Levels to the last bit: a run from zero-terminal SNR, at sigma 4518, multiplies the last bit by ten thousand."""

from __future__ import annotations

import math

import pytest
import torch
from comfyk_core_nodes.sampling.model_sampling import (
    ModelSamplingDiscrete,
    betas_for,
    model_sampling,
    zero_terminal_snr,
)
from comfyk_core_nodes.sampling.prediction import V_PREDICTION
from comfyk_core_nodes.sampling.rescale import rescaled_cfg


@pytest.mark.parametrize("zsnr", [False, True])
def test_logarithms_are_of_the_exact_levels(zsnr: bool) -> None:
    alphas = torch.cumprod(1 - betas_for("linear", 1000, 0.00085, 0.012), dim=0)
    exact = ((1 - alphas) / alphas) ** 0.5
    if zsnr:
        exact = zero_terminal_snr(exact)
    levels = model_sampling(ModelSamplingDiscrete, V_PREDICTION, zsnr=zsnr)
    expected = torch.tensor([math.log(sigma) for sigma in exact.tolist()])
    torch.testing.assert_close(levels.log_sigmas, expected, rtol=0, atol=0)


def test_rescaled_guidance_rounds_as_the_reference() -> None:
    """ComfyUI 0.33 gives these numbers; what is exact differs from them by up to 5e-4 at this level."""
    k = torch.arange(16.0).view(1, 4, 2, 2)
    x = (k * 5 % 16 - 7.5) * 1000.0625
    cond, uncond = k / 8 - 1.1, (15 - k) ** 2 / 200
    arguments = {
        "input": x,
        "sigma": torch.tensor([4518.75]),
        "cond_scale": 7.0,
        "cond": x - cond,
        "uncond": x - uncond,
        "cond_denoised": cond,
        "uncond_denoised": uncond,
    }
    denoised = x - rescaled_cfg(0.7, flow=False)(arguments)
    expected = torch.tensor([-5.285645, -2.313232, 0.109375, 1.984131])
    torch.testing.assert_close(denoised.flatten()[::5], expected, rtol=0, atol=1e-5)
