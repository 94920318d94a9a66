"""Guidance with a second model for the negative conditioning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from comfyk_core_nodes.sampling.cond_batch import calc_cond_batch
from comfyk_core_nodes.sampling.guidance import (
    CFGGuider,
    Sampler,
    StepCallback,
    cfg_function,
    goes_without_uncond,
    running,
)
from comfyk_core_nodes.sampling.prepare import clean_up, prepare_sampling, process_conds, to_model_scale
from comfyk_core_nodes.sampling.regions import Cond


class TwoModelGuider(CFGGuider):
    """Asks `model_patcher` about the positive conditioning and `negative_patcher` about the negative one.

    A run that starts with a scale of 1 goes without the second model, whatever the scale becomes on the way.
    """

    def __init__(self, model_patcher: Any, negative_patcher: Any) -> None:
        super().__init__(model_patcher)
        self.negative_patcher = negative_patcher
        self._negative_model: Any = None
        self._negative: list[Cond] = []

    def outer_sample(self, noise: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if math.isclose(self.cfg, 1.0):
            return super().outer_sample(noise, *args, **kwargs)
        patcher = self.negative_patcher
        own = {"negative": [dict(cond) for cond in self.conds["negative"]]}
        self._negative_model, own, others = prepare_sampling(patcher, noise.shape, own, patcher.model_options)
        self._negative = own["negative"]
        try:
            with running(patcher):
                return super().outer_sample(noise, *args, **kwargs)
        finally:
            clean_up({"negative": self._negative}, others)
            self._negative_model, self._negative = None, []

    def inner_sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        device: torch.device,
        sampler: Sampler,
        sigmas: Tensor,
        denoise_mask: Tensor | None,
        callback: StepCallback | None,
        disable_pbar: bool,
        seed: int | None,
        latent_shapes: Sequence[torch.Size] | None = None,
    ) -> Tensor:
        model = self._negative_model
        if model is not None:
            self._negative = process_conds(
                model,
                noise,
                {"negative": self._negative},
                device,
                to_model_scale(model, latent_image),
                denoise_mask,
                seed,
                latent_shapes=latent_shapes,
            )["negative"]
        return super().inner_sample(
            noise,
            latent_image,
            device,
            sampler,
            sigmas,
            denoise_mask,
            callback,
            disable_pbar,
            seed,
            latent_shapes,
        )

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: int | None = None
    ) -> Tensor:
        model, positive = self.inner_model, self.conds["positive"]
        cond = calc_cond_batch(model, [positive], x, timestep, model_options)[0]
        if self._negative_model is None or goes_without_uncond(self.cfg, model_options):
            return cond
        uncond = calc_cond_batch(self._negative_model, [self._negative], x, timestep, model_options)[0]
        return cfg_function(
            model, cond, uncond, self.cfg, x, timestep, model_options, positive, self._negative
        )
