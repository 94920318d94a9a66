"""Guidance that keeps the contrast of what the prompt alone gives (Lin et al. 2023, arXiv:2305.08891, sec. 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor


def rescaled_cfg(multiplier: float, flow: bool) -> Callable[[Mapping[str, Any]], Tensor]:
    """A `sampler_cfg_function`. The share `multiplier` is rescaled to the deviation of the positive prediction.

    Of v-prediction, which others are taken to; of the denoised latent for flow models.
    """

    def guide(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
        guided = uncond + scale * (cond - uncond)
        dims = tuple(range(1, cond.ndim))
        ratio = cond.std(dim=dims, keepdim=True) / guided.std(dim=dims, keepdim=True).clamp(min=1e-8)
        return guided * (multiplier * ratio + (1.0 - multiplier))

    def function(args: Mapping[str, Any]) -> Tensor:
        x, scale = args["input"], args["cond_scale"]
        if flow:
            return x - guide(args["cond_denoised"], args["uncond_denoised"], scale)
        sigma = args["sigma"].view(-1, *[1] * (x.ndim - 1))
        variance = sigma**2 + 1.0
        inner = x / variance

        # From `x - denoised`, as in the field: at sigma 4518, where zero-terminal SNR begins, what that rounds off
        # is seen in the picture.
        def to_v(difference: Tensor) -> Tensor:
            return (inner - (x - difference)) * variance**0.5 / sigma

        v = guide(to_v(args["cond"]), to_v(args["uncond"]), scale)
        return x - (inner - v * sigma / variance**0.5)

    return function
