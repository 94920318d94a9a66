"""From a network to one that is moved and patched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from comfyk_core_nodes.devices.device import get_torch_device, unet_offload_device
from comfyk_core_nodes.memory.patcher import ModelPatcher
from comfyk_core_nodes.weights.dtypes import HALF_FIRST, unet_dtype
from comfyk_core_nodes.weights.dtypes import compute_dtype as best_compute_dtype
from comfyk_core_nodes.weights.state_dict import stored_dtype


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


def managed_in_sampling(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
    supported_dtypes: Sequence[torch.dtype] = HALF_FIRST,
    load_device: torch.device | None = None,
    offload_device: torch.device | None = None,
) -> ModelPatcher:
    """The patcher of a diffusion model, or of a network that runs along with one.

    `weights` are the file's, `dtype` is what to keep them in, in place of what the settings and the device say;
    `supported_dtypes` is what the network computes well in, best first.
    """
    device = load_device or get_torch_device()
    if dtype is None:
        size = sum(tensor.numel() for tensor in weights.values())
        dtype = unet_dtype(device, size, supported_dtypes, stored_dtype(weights))
    computed = best_compute_dtype(dtype, device, supported_dtypes)
    return managed(network, device, offload_device or unet_offload_device(), dtype, computed)
