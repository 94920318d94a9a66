"""The vector that unCLIP models are given for pictures, by the reference's numbers and by the formula."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from comfyk_core_nodes.families.sd.noise_augmentation import NoiseAugmentation, unclip_vector
from torch import Tensor

CPU = torch.device("cpu")
PICTURES = (
    (torch.arange(8.0) / 8 - 0.5, 0.7, 0.2),
    (torch.arange(8.0).flip(0) / 4 - 1, 1.3, 0.0),
    (torch.ones(8), -0.5, 1.0),
)
REFERENCE = {
    2: [0.69585669, 0.52894247, 0.22658320, -0.11184999, -0.39162266, -0.85389048, -0.68964303, -0.82037687],
    3: [0.29585940, 0.44186369, 0.18225408, 0.19371216, -0.41464269, -0.17262200, -0.85771543, -1.32386315],
}
"""ComfyUI 0.33's first half for the first two and all three, seed 3, merged with noise of 0.05."""


def pictures(count: int) -> list[dict[str, Any]]:
    return [
        {
            "clip_vision_output": SimpleNamespace(image_embeds=embed[None]),
            "strength": strength,
            "noise_augmentation": noise,
        }
        for embed, strength, noise in PICTURES[:count]
    ]


def vector(count: int, merge: float = 0.05, seed: int = 3) -> Tensor:
    return unclip_vector(pictures(count), CPU, NoiseAugmentation("cosine"), merge, seed)


@pytest.mark.parametrize("count", [2, 3])
def test_several_pictures_are_merged_as_by_the_reference(count: int) -> None:
    torch.manual_seed(count)
    state = torch.get_rng_state()
    torch.testing.assert_close(vector(count)[0, :8], torch.tensor(REFERENCE[count]), rtol=1e-5, atol=1e-6)
    assert torch.equal(torch.get_rng_state(), state), "the noise of others is left alone"
    assert torch.equal(vector(count), vector(count))
    assert not torch.equal(vector(count), vector(count, seed=4))


def test_the_merged_noise_follows_the_pictures_own() -> None:
    """Every picture has the noise that the seed begins with, and the sum of them what comes next."""
    cosine = torch.cos((torch.arange(1001, dtype=torch.float64) / 1000 + 0.008) / 1.008 * torch.pi / 2) ** 2
    alphas = torch.cumprod((cosine[1:] / cosine[:-1]).clamp(min=1 - 0.999), 0)

    def noised(x: Tensor, level: int, noise: Tensor) -> Tensor:
        return (alphas[level].sqrt() * x + (1 - alphas[level]).sqrt() * noise).float()

    generator = torch.Generator().manual_seed(3)
    own, after = (torch.randn(8, generator=generator) for _ in range(2))
    merged = torch.zeros(8)
    for embed, strength, noise in PICTURES:
        merged += strength * noised(embed, round(999 * noise), own)
    expected = noised(merged, round(999 * 0.05), after)
    torch.testing.assert_close(vector(3)[0, :8], expected, rtol=1e-4, atol=1e-5)


def test_one_picture_is_not_merged() -> None:
    assert torch.equal(vector(1, merge=0.0), vector(1, merge=0.5))
    assert vector(1).shape == (1, 16)
