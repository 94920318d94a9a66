"""How often the picture is what its caption says, for captions of shapes that were never learned."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image

from training.denoiser import Denoiser, alphas, latents, tokens_of
from training.draw import make_up, words
from training.look import ground_of, shape_of
from training.vae import new_vae


@torch.no_grad()
def sample(
    network: torch.nn.Module, captions: list[str], seed: int, steps: int = 20, guidance: float = 3.0
) -> torch.Tensor:
    """Latents by DDIM (Song et al. 2020)."""
    signal = alphas()
    said = torch.tensor([tokens_of(text) for text in captions] + [tokens_of("")] * len(captions))
    x = torch.randn(len(captions), 4, 16, 16, generator=torch.Generator().manual_seed(seed))
    times = torch.linspace(999, 0, steps + 1).round().long()
    clean = x
    for now, then in pairwise(times):
        a, b = signal[now], signal[then]
        both = network(torch.cat([x, x]), now.repeat(2 * len(x)), said)
        with_words, without = both.chunk(2)
        v = without + guidance * (with_words - without)
        clean, noise = a.sqrt() * x - (1 - a).sqrt() * v, a.sqrt() * v + (1 - a).sqrt() * x
        x = b.sqrt() * clean + (1 - b).sqrt() * noise
    return clean


def pictures(work: Path, captions: list[str], seed: int = 7) -> np.ndarray:
    """Pictures for captions, `uint8 [N, 128, 128, 3]`."""
    network = Denoiser()
    network.load_state_dict(torch.load(work / "denoiser.pt", weights_only=True)["average"])
    network.eval()
    vae = new_vae()
    vae.load_state_dict(torch.load(work / "vae.pt", weights_only=True)["network"])
    scale = latents(work).scale
    with torch.no_grad():
        out = vae.decode(sample(network, captions, seed) / scale).sample
    return ((out.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def evaluate(work: Path, count: int = 200) -> dict[str, float]:
    """The share of pictures of one shape in which it is right: what is looked at by name."""
    scenes = [make_up(Random(f"test {number}"), test=True) for number in range(count)]
    captions = [words(scene, Random(number)) for number, scene in enumerate(scenes)]
    right = {"ground": 0, "colour": 0, "kind": 0, "colour and kind": 0}
    for scene, picture in zip(scenes, pictures(work, captions), strict=True):
        seen = shape_of(picture)
        colour, kind = seen or ("", "")
        right["ground"] += ground_of(picture) == scene.background
        right["colour"] += colour == scene.shapes[0].colour
        right["kind"] += kind == scene.shapes[0].kind
        right["colour and kind"] += (colour, kind) == (scene.shapes[0].colour, scene.shapes[0].kind)
    return {name: number / count for name, number in right.items()}


def sheet(work: Path, file: Path, captions: list[str]) -> None:
    """One picture of many, eight in a row."""
    made = pictures(work, captions)
    rows = [np.concatenate(list(made[first : first + 8]), 1) for first in range(0, len(made), 8)]
    image = Image.fromarray(np.concatenate(rows))
    image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC).save(file)
