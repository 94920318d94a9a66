"""What ComfyUI computed in fp32 on a full-size SD 1.5 checkpoint of random weights, held against ours.

The files are too large to be here: COMFYK_GOLDENS names the safetensors file with the tensors, and COMFYK_GOLDENS_SD15
the checkpoint that they were computed on. Without them the test is skipped, and the tiny models of the other tests
stand for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from comfyk_core_nodes.families.checkpoint import Checkpoint, load_checkpoint
from comfyk_core_nodes.memory.manager import load_models_gpu, unload_all_models
from comfyk_core_nodes.sampling.noise import prepare_noise
from safetensors.torch import load_file
from torch import Tensor

FILES = os.environ.get("COMFYK_GOLDENS"), os.environ.get("COMFYK_GOLDENS_SD15")
PROMPTS = ("a photo of a cat", "a (beautiful:1.3) landscape, [dark] mountains")

pytestmark = [
    pytest.mark.skipif(None in FILES, reason="COMFYK_GOLDENS and COMFYK_GOLDENS_SD15 name no files"),
    pytest.mark.usefixtures("seeded"),
]


@pytest.fixture(scope="module")
def goldens() -> dict[str, Tensor]:
    return load_file(str(FILES[0]))


@pytest.fixture(scope="module")
def checkpoint() -> Iterator[Checkpoint]:
    with torch.inference_mode():
        yield load_checkpoint(str(FILES[1]))
    unload_all_models()


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Relative to their length."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("number", [0, 1])
def test_text(checkpoint: Checkpoint, goldens: dict[str, Tensor], number: int) -> None:
    assert checkpoint.clip is not None
    tokens = checkpoint.clip.tokenize(PROMPTS[number])
    cond, pooled = checkpoint.clip.encode_from_tokens(tokens, return_pooled=True)
    assert distance(cond, goldens[f"cond_{number}"]) < 1e-5
    assert distance(pooled, goldens[f"pooled_{number}"]) < 1e-5


@pytest.mark.parametrize("t", [1, 500, 999])
def test_unet(checkpoint: Checkpoint, goldens: dict[str, Tensor], t: int) -> None:
    assert checkpoint.model is not None
    load_models_gpu([checkpoint.model])
    network = checkpoint.model.model.diffusion_model
    with torch.inference_mode():
        out = network(goldens["unet_x"], torch.tensor([float(t)]), context=goldens["cond_0"])
    assert distance(out, goldens[f"unet_out_t{t}"]) < 1e-4


def test_vae(checkpoint: Checkpoint, goldens: dict[str, Tensor]) -> None:
    assert checkpoint.vae is not None
    decoded = checkpoint.vae.decode(goldens["vae_latent"])
    assert distance(decoded, goldens["vae_decoded_nhwc"]) < 1e-4
    assert distance(checkpoint.vae.encode(goldens["vae_image_nhwc"]), goldens["vae_encoded"]) < 1e-4


@pytest.mark.parametrize("batch", [1, 2])
def test_noise(goldens: dict[str, Tensor], batch: int) -> None:
    noise = prepare_noise(torch.zeros(batch, 4, 8, 8), 12345)
    assert torch.equal(noise, goldens[f"noise_seed_12345_{batch}x4x8x8"])
