"""Tiny ControlNets and adapters of diffusers with random weights, in files, and a tiny model to run them with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyk_core_nodes.families.checkpoint import load_diffusion_model
from comfyk_core_nodes.families.sd.diffusers_keys import diffusers_unet_to_original
from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn

TEXT = 24
SD1 = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "cross_attention_dim": TEXT,
    "attention_head_dim": 8,
}
SDXL = {
    "block_out_channels": (64, 128),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "cross_attention_dim": TEXT,
    "attention_head_dim": (1, 2),
    "use_linear_projection": True,
    "transformer_layers_per_block": (1, 2),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 16 + 6 * 8,
}
HINT = {"conditioning_embedding_out_channels": (8, 16, 24, 32)}


def randomise(module: nn.Module, seed: int = 0) -> Any:
    """All weights drawn anew, those that start as zeros too, so that every layer counts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.2
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
            if parameter.ndim == 1:
                parameter.add_(0.5)
    return module.eval()


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """`save(state, "name.safetensors")`, or `.pth`."""

    def write(state: dict[str, Tensor], name: str = "control.safetensors") -> Path:
        path = tmp_path / name
        state = {key: value.detach().clone().contiguous() for key, value in state.items()}
        if path.suffix == ".safetensors":
            save_file(state, path)
        else:
            torch.save(state, path)
        return path

    return write


@pytest.fixture(scope="session")
def sd1_control() -> ControlNetModel:
    return randomise(ControlNetModel(**SD1, **HINT))


@pytest.fixture(scope="session")
def unet_state() -> dict[str, Tensor]:
    """A UNet for `sd1_control`, with the original names."""
    unet = UNet2DConditionModel(**SD1, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    state = diffusers_unet_to_original(randomise(unet, 1).state_dict())
    assert state is not None
    return {key: value.clone() for key, value in state.items()}


@pytest.fixture
def model(save: Callable[..., Path], unet_state: dict[str, Tensor]) -> Any:
    """A ModelPatcher around that UNet."""
    return load_diffusion_model(save(unet_state, "unet.safetensors"))


@pytest.fixture
def draw() -> Callable[..., Tensor]:
    """`draw(2, 4, 8, 8, seed=1)`: the same numbers each time."""

    def make(*shape: int, seed: int = 0) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    return make


def close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    """Whether two tensors differ by less than this share of their size."""
    return a.shape == b.shape and bool((a - b).norm() <= tolerance * b.norm())
