"""Which dtype a part of a model is stored and computed in: the settings first, then what the device is good at."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from comfyk_core_nodes.devices.device import get_torch_device, maximum_memory_for_weights
from comfyk_core_nodes.devices.settings import device_settings

DTYPES: dict[str, torch.dtype] = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
FLOAT8_DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2)

HALF_FIRST = (torch.float16, torch.bfloat16, torch.float32)
_OLD_RDNA = ("gfx1030", "gfx1031", "gfx1010", "gfx1011", "gfx1012", "gfx906", "gfx900", "gfx803")
"""AMD architectures that emulate bf16."""
_BROKEN_FP16 = (
    "1660",
    "1650",
    "1630",
    "T500",
    "T550",
    "T600",
    "MX550",
    "MX450",
    "CMP 30HX",
    "T2000",
    "T1000",
)
"""NVIDIA cards of compute capability 7.5 that give NaN in fp16."""


def should_use_fp16(device: torch.device | None = None, *, storage_only: bool = False) -> bool:
    """Whether fp16 is the better choice than fp32 there; with `storage_only` for weights that are cast to compute."""
    device = device or get_torch_device()
    if device.type == "cpu":
        return False
    if device_settings().precision != "auto":
        return device_settings().precision == "fp16"
    if device.type == "xpu":
        return torch.xpu.get_device_properties(device).has_fp16
    if device.type != "cuda" or torch.version.hip:
        return True
    properties = torch.cuda.get_device_properties(device)
    if properties.major >= 8 or (storage_only and properties.major >= 6):
        return True
    return properties.major == 7 and not any(name in properties.name for name in _BROKEN_FP16)


def should_use_bf16(device: torch.device | None = None) -> bool:
    """Whether the device computes in bf16 at full speed."""
    device = device or get_torch_device()
    if device.type == "cpu" or device_settings().precision == "fp32":
        return False
    if device.type == "xpu":
        return torch.xpu.is_bf16_supported()
    if device.type != "cuda":
        return True
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return not any(name in properties.gcnArchName for name in _OLD_RDNA)
    return properties.major >= 8


def unet_dtype(
    device: torch.device | None = None,
    model_params: int = 0,
    supported_dtypes: Sequence[torch.dtype] = HALF_FIRST,
    weight_dtype: torch.dtype | None = None,
) -> torch.dtype:
    """The dtype that a diffusion model's weights are kept in.

    `model_params` is how many weights it has, `weight_dtype` what the file has them in, `supported_dtypes` what the
    architecture works in, best first. fp8 weights stay fp8 where they would not fit otherwise.
    """
    device = device or get_torch_device()
    if device_settings().unet_dtype != "auto":
        return DTYPES[device_settings().unet_dtype]
    if weight_dtype in FLOAT8_DTYPES and model_params * 2 > maximum_memory_for_weights(device):
        return weight_dtype
    wanted = list(supported_dtypes)
    if weight_dtype == torch.float16 and torch.float16 in wanted:
        wanted.insert(0, torch.float16)
    for storage_only in (False, True):
        for dtype in wanted:
            if dtype == torch.float16 and should_use_fp16(device, storage_only=storage_only):
                return dtype
            if dtype == torch.bfloat16 and should_use_bf16(device):
                return dtype
    return torch.float32


def compute_dtype(
    weight_dtype: torch.dtype,
    device: torch.device | None = None,
    supported_dtypes: Sequence[torch.dtype] = HALF_FIRST,
) -> torch.dtype:
    """The dtype to compute in with weights that are kept in `weight_dtype`: that one if the device is good at it."""
    device = device or get_torch_device()
    if weight_dtype in (torch.float32, torch.float64):
        return weight_dtype
    if weight_dtype == torch.float16 and should_use_fp16(device):
        return weight_dtype
    if weight_dtype == torch.bfloat16 and should_use_bf16(device):
        return weight_dtype
    for dtype in supported_dtypes:
        if dtype == torch.float16 and should_use_fp16(device):
            return dtype
        if dtype == torch.bfloat16 and should_use_bf16(device):
            return dtype
    return torch.float32


def text_encoder_dtype(
    device: torch.device | None = None, weight_dtype: torch.dtype | None = None
) -> torch.dtype:
    """The dtype that a text encoder's weights are kept in; on the CPU what the file has, which needs no copy."""
    device = device or get_torch_device()
    if device_settings().text_encoder_dtype != "auto":
        return DTYPES[device_settings().text_encoder_dtype]
    if device.type == "cpu" and weight_dtype is not None and weight_dtype.is_floating_point:
        return weight_dtype
    return torch.float16


def vae_dtype(device: torch.device | None = None, allowed_dtypes: Sequence[torch.dtype] = ()) -> torch.dtype:
    """The dtype of a VAE: the first of `allowed_dtypes` that the device is good at, else fp32."""
    device = device or get_torch_device()
    if device_settings().vae_dtype != "auto":
        return DTYPES[device_settings().vae_dtype]
    for dtype in allowed_dtypes:
        if dtype == torch.float16 and should_use_fp16(device):
            return dtype
        if dtype == torch.bfloat16 and should_use_bf16(device):
            return dtype
    return torch.float32


def should_upcast_attention(device: torch.device) -> bool:
    """Whether attention in half precision is to be computed in fp32 there. Torch keeps the scores in fp32 elsewhere."""
    wanted = device_settings().attention_upcast
    return device.type == "mps" if wanted == "auto" else wanted == "always"


def intermediate_dtype() -> torch.dtype:
    """The dtype of latents and pictures between nodes."""
    return torch.float16 if device_settings().fp16_intermediates else torch.float32


def lora_compute_dtype(device: torch.device) -> torch.dtype:
    """The dtype that patched weights are computed in before they are rounded to their own."""
    return torch.float16 if should_use_fp16(device) else torch.float32
