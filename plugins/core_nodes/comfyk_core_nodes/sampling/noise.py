"""The noise that a run starts from: drawn on the CPU, so that a seed gives the same picture on every device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def prepare_noise(latent: Tensor, seed: int, batch_index: Sequence[int] | None = None) -> Tensor:
    """Unit noise in the shape of `latent`, `[B, C, ...]`, on the CPU.

    `batch_index`, `[B]`, says which items of a larger batch these are: each gets the noise that it would have there.
    Seeds torch's global CPU generator with `seed`, as the samplers that draw from it rely on.
    """
    generator = torch.manual_seed(seed)
    if batch_index is None:
        noise = torch.randn(latent.shape, dtype=torch.float32, layout=latent.layout, generator=generator)
        return noise.to(latent.dtype)
    wanted = set(batch_index)
    drawn: dict[int, Tensor] = {}
    for index in range(max(wanted) + 1):
        noise = torch.randn((1, *latent.shape[1:]), dtype=torch.float32, generator=generator)
        if index in wanted:
            drawn[index] = noise.to(latent.dtype)
    return torch.cat([drawn[index] for index in batch_index])


def prepare_empty_noise(latent: Tensor) -> Tensor:
    """No noise, on the CPU."""
    return torch.zeros_like(latent, device="cpu")


class RandomNoise:
    """The noise of a seed, as custom-sampling nodes hand it on."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def generate_noise(self, latent: Mapping[str, Any]) -> Tensor:
        """Noise for a latent dict with `samples` and maybe `batch_index`."""
        return prepare_noise(latent["samples"], self.seed, latent.get("batch_index"))


class EmptyNoise:
    """No noise, as custom-sampling nodes hand it on. The samplers' own noise has seed 0."""

    seed = 0

    def generate_noise(self, latent: Mapping[str, Any]) -> Tensor:
        return prepare_empty_noise(latent["samples"])
