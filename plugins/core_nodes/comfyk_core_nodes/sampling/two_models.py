"""Guidance with a second model for the negative conditioning."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from comfyk_core_nodes.memory.manager import load_models_gpu
from comfyk_core_nodes.sampling.cond_batch import calc_cond_batch
from comfyk_core_nodes.sampling.guidance import CFGGuider, cfg_function
from comfyk_core_nodes.sampling.prepare import additional_models, clean_up, process_conds
from comfyk_core_nodes.sampling.regions import Cond


class TwoModelGuider(CFGGuider):
    """Asks `model_patcher` about the positive conditioning and `negative_patcher` about the negative one."""

    def __init__(self, model_patcher: Any, negative_patcher: Any) -> None:
        super().__init__(model_patcher)
        self.negative_patcher = negative_patcher
        self._negative: list[Cond] = []

    def outer_sample(self, noise: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if math.isclose(self.cfg, 1.0):
            return super().outer_sample(noise, *args, **kwargs)
        patcher = self.negative_patcher
        own = {"negative": self.conds["negative"]}
        others, memory = additional_models(own, patcher.model_dtype())
        needed = int(memory + patcher.model.memory_required(list(noise.shape)))
        load_models_gpu([patcher, *others], memory_required=needed)
        try:
            return super().outer_sample(noise, *args, **kwargs)
        finally:
            clean_up(own, others)

    def inner_sample(
        self, noise: Tensor, latent_image: Tensor, device: torch.device, *args: Any, **kwargs: Any
    ) -> Tensor:
        model = self.negative_patcher.model
        latent = latent_image
        if torch.count_nonzero(latent) > 0:
            latent = model.process_latent_in(latent)
        conds = {"negative": self.conds["negative"]}
        self._negative = process_conds(model, noise, conds, device, latent)["negative"]
        return super().inner_sample(noise, latent_image, device, *args, **kwargs)

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: int | None = None
    ) -> Tensor:
        model, positive = self.inner_model, self.conds["positive"]
        cond = calc_cond_batch(model, [positive], x, timestep, model_options)[0]
        if math.isclose(self.cfg, 1.0):
            return cond
        other = self.negative_patcher.model
        uncond = calc_cond_batch(other, [self._negative], x, timestep, model_options)[0]
        return cfg_function(
            model, cond, uncond, self.cfg, x, timestep, model_options, positive, self._negative
        )
