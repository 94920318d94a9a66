"""Differential diffusion (Levin and Fried 2023, arXiv:2306.00950): a grey mask says how much each place changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def differential_mask(
    sigma: Tensor, denoise_mask: Tensor, extra_options: Mapping[str, Any], strength: float = 1.0
) -> Tensor:
    """A `denoise_mask_function`: 1 where the mask is at least the share of timesteps that is still to go.

    With `strength` between 0 and 1 it is mixed with the mask itself.
    """
    sampling = extra_options["model"].inner_model.model_sampling
    sigmas = extra_options["sigmas"]
    last = sigmas[-1] if sigmas[-1] > sampling.sigma_min else sampling.sigma_min
    start, end, now = (sampling.timestep(each) for each in (sigmas[0], last, sigma[0]))
    joined = (denoise_mask >= (now - end) / (start - end)).to(denoise_mask.dtype)
    if 0 < strength < 1:
        return strength * joined + (1 - strength) * denoise_mask
    return joined
