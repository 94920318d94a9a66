"""Stable Diffusion's wrapping around networks that are quick: a formula, or a UNet of 32 channels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyk_core_nodes.families.base_model import BaseModel
from comfyk_core_nodes.families.family import ModelConfig
from comfyk_core_nodes.families.sd.latent_formats import SD15
from comfyk_core_nodes.families.sd.models import InstructPix2Pix, StableDiffusion
from comfyk_core_nodes.families.sd.registrations import SD1
from comfyk_core_nodes.memory.patcher import ModelPatcher

from .recipes import Network, wave

UNET = {
    "in_channels": 4,
    "model_channels": 32,
    "out_channels": 4,
    "num_res_blocks": [1],
    "channel_mult": [1],
    "transformer_depth": [1],
    "transformer_depth_output": [1, 1],
    "transformer_depth_middle": 1,
    "context_dim": 64,
    "num_heads": 4,
    "num_head_channels": -1,
    "use_linear_in_transformer": False,
}


def sd1(kind: type[StableDiffusion] = StableDiffusion, in_channels: int = 4) -> BaseModel:
    """A model whose network has no weights yet."""
    with torch.device("meta"):
        return kind(ModelConfig(SD1, {**UNET, "in_channels": in_channels}, SD15(), "eps"))


def patcher_of(model: BaseModel) -> ModelPatcher:
    cpu = torch.device("cpu")
    return ModelPatcher(model, cpu, cpu)


def quick(made: BaseModel, sign: float = 1.0) -> ModelPatcher:
    made.diffusion_model = Network(sign)  # type: ignore[assignment]
    return patcher_of(made)


@pytest.fixture
def unet_model() -> ModelPatcher:
    made = sd1()
    network = made.diffusion_model.to_empty(device="cpu").requires_grad_(False)
    for number, parameter in enumerate(network.parameters()):
        parameter.copy_(0.2 * wave(*parameter.shape, start=number))
    return patcher_of(made)


@pytest.fixture
def model() -> ModelPatcher:
    return quick(sd1())


@pytest.fixture
def second() -> ModelPatcher:
    """Another model than `model`."""
    return quick(sd1(), sign=-1.3)


@pytest.fixture
def inpainting() -> ModelPatcher:
    return quick(sd1(in_channels=9))


@pytest.fixture
def editing() -> ModelPatcher:
    """InstructPix2Pix."""
    return quick(sd1(InstructPix2Pix, in_channels=8))


@pytest.fixture(scope="session")
def facts() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "comfyui.json").read_text(encoding="utf-8"))


@pytest.fixture
def agrees(facts: dict[str, Any]) -> Callable[[str, list[float]], None]:
    """`agrees(name, numbers)`: they are those of ComfyUI."""

    def check(name: str, numbers: list[float]) -> None:
        expected = facts[name]
        size = max(map(abs, expected), default=0.0)
        assert numbers == pytest.approx(expected, rel=1e-4, abs=1e-5 * size)

    return check
