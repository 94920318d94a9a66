"""From a network to one that is moved and patched, for the networks beside the diffusion model."""

from __future__ import annotations

import torch
from torch import nn

from comfyk_core_nodes.memory.patcher import ModelPatcher


def managed(
    network: nn.Module,
    load_device: torch.device,
    offload_device: torch.device,
    weight_dtype: torch.dtype | None,
    compute_dtype: torch.dtype,
) -> ModelPatcher:
    """The patcher of a network whose weights are kept in one dtype on the device, and computed with in another."""
    network.__dict__["manual_cast_dtype"] = compute_dtype
    return ModelPatcher(
        network, load_device=load_device, offload_device=offload_device, weight_dtype=weight_dtype
    )
