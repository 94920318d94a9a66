"""Noise added to what a model is conditioned on, with the level of it told to the model (Ho et al. 2021,
arXiv:2106.15282): unCLIP's picture embeddings and the x4 upscaler's small picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from comfyk_core_nodes.families.sd.unet import timestep_embedding
from comfyk_core_nodes.sampling.model_sampling import betas_for


class NoiseAugmentation:
    """The diffusion that adds the noise: `max_noise_level` of its 1000 steps are used."""

    def __init__(
        self, schedule: str, start: float = 1e-4, end: float = 2e-2, max_noise_level: int = 1000
    ) -> None:
        alphas = torch.cumprod(1.0 - betas_for(schedule, 1000, start, end), dim=0)
        self.signal = alphas.sqrt().float()
        self.noise = (1.0 - alphas).sqrt().float()
        self.max_noise_level = max_noise_level

    def __call__(self, x: Tensor, level: int, generator: torch.Generator) -> Tensor:
        """`x` with noise of step `level`, drawn on the CPU from `generator`."""
        noise = torch.randn(x.shape, dtype=x.dtype, generator=generator).to(x.device)
        return self.signal[level].to(x) * x + self.noise[level].to(x) * noise


def unclip_vector(
    unclip_conditioning: Sequence[Mapping[str, Any]],
    device: torch.device,
    augmentation: NoiseAugmentation,
    noise_augment_merge: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """The vector `[1, 2 * D]` for unCLIP: the noised embeddings of all pictures, weighted, and the noise's level.

    Every picture gets the noise that `seed` begins with. What several are merged into gets what follows it.
    """
    generator = torch.Generator()
    vectors: list[Tensor] = []
    for cond in unclip_conditioning:
        for embed in cond["clip_vision_output"].image_embeds:
            level = round((augmentation.max_noise_level - 1) * cond["noise_augmentation"])
            generator.manual_seed(seed)
            vectors.append(_with_level(embed.to(device), level, augmentation, generator) * cond["strength"])
    if len(vectors) == 1:
        return vectors[0]
    merged = torch.stack(vectors).sum(0)
    level = round((augmentation.max_noise_level - 1) * noise_augment_merge)
    return _with_level(merged[:, : merged.shape[1] // 2], level, augmentation, generator)


def _with_level(
    embed: Tensor, level: int, augmentation: NoiseAugmentation, generator: torch.Generator
) -> Tensor:
    embed = embed.reshape(1, -1)
    place = timestep_embedding(torch.tensor([level], device=embed.device), embed.shape[1])
    return torch.cat([augmentation(embed, level, generator), place], dim=1)
