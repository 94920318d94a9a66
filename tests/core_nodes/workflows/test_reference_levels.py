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


@pytest.mark.parametrize("zsnr", [False, True])
def test_logarithms_are_of_the_exact_levels(zsnr: bool) -> None:
    alphas = torch.cumprod(1 - betas_for("linear", 1000, 0.00085, 0.012), dim=0)
    exact = ((1 - alphas) / alphas) ** 0.5
    if zsnr:
        exact = zero_terminal_snr(exact)
    levels = model_sampling(ModelSamplingDiscrete, V_PREDICTION, zsnr=zsnr)
    expected = torch.tensor([math.log(sigma) for sigma in exact.tolist()])
    torch.testing.assert_close(levels.log_sigmas, expected, rtol=0, atol=0)
