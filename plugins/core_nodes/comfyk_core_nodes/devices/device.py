"""One interface to what weights live on: CUDA (and ROCm, which torch shows as CUDA), MPS, XPU and the CPU.

A device is named by its `torch.device`; `device_of` gives the object that knows its memory.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import psutil
import torch

from comfyk_core_nodes.devices.freed import give_back
from comfyk_core_nodes.devices.settings import cpu_only, device_settings

GB = 1024**3

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Device:
    """The CPU, and what is common to all: sizes in bytes, putting tensors there."""

    torch_device: torch.device

    def total(self) -> int:
        return psutil.virtual_memory().total

    def free(self) -> int:
        """Bytes that can be taken, those that torch holds without use included."""
        return psutil.virtual_memory().available

    @property
    def tensor_device(self) -> torch.device:
        """What tensors that are here say of their device."""
        return torch.empty(0, device=self.torch_device).device

    def put(self, tensor: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The tensor here and in that dtype: itself when it is so already."""
        return tensor.to(device=self.torch_device, dtype=dtype)

    def empty_cache(self) -> None:
        """Give what torch, or the C library, holds without use back to the driver, or the kernel."""
        give_back()


@dataclass(frozen=True)
class CudaDevice(Device):
    """NVIDIA by CUDA, AMD by ROCm."""

    def total(self) -> int:
        return torch.cuda.mem_get_info(self.torch_device)[1]

    def free(self) -> int:
        stats = torch.cuda.memory_stats(self.torch_device)
        unused = stats.get("reserved_bytes.all.current", 0) - stats.get("active_bytes.all.current", 0)
        return torch.cuda.mem_get_info(self.torch_device)[0] + unused

    def empty_cache(self) -> None:
        torch.cuda.synchronize(self.torch_device)
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class XpuDevice(Device):
    """Intel GPUs."""

    def total(self) -> int:
        return torch.xpu.get_device_properties(self.torch_device).total_memory

    def free(self) -> int:
        return self.total() - torch.xpu.memory_stats(self.torch_device).get("active_bytes.all.current", 0)

    def empty_cache(self) -> None:
        torch.xpu.synchronize(self.torch_device)
        torch.xpu.empty_cache()


@dataclass(frozen=True)
class MpsDevice(Device):
    """Apple GPUs: they share the main memory, so the sizes are the CPU's."""

    def empty_cache(self) -> None:
        torch.mps.empty_cache()


_KINDS: dict[str, type[Device]] = {"cpu": Device, "cuda": CudaDevice, "xpu": XpuDevice, "mps": MpsDevice}
_devices: dict[torch.device, Device] = {}


def device_of(device: torch.device) -> Device:
    """What knows the memory of this device. A kind that torch has and this does not is treated as the CPU is."""
    known = _devices.get(device)
    if known is None:
        known = _devices[device] = _KINDS.get(device.type, Device)(device)
    return known


def register_device(device: Device) -> None:
    """Use this object for its `torch_device`: a kind from a plugin, or a CPU with a budget in a test."""
    _devices[device.torch_device] = device


def get_torch_device() -> torch.device:
    """The device that models are computed on."""
    if cpu_only():
        return CPU
    index = device_settings().default_device
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device() if index is None else index)
    if torch.xpu.is_available():
        return torch.device("xpu", torch.xpu.current_device() if index is None else index)
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return CPU


def unet_offload_device() -> torch.device:
    """Where a diffusion model is while it is not used."""
    return get_torch_device() if device_settings().vram in ("high", "gpu-only") else CPU


def text_encoder_device() -> torch.device:
    """The device that text encoders run on."""
    return CPU if device_settings().vram in ("low", "none") else get_torch_device()


def text_encoder_offload_device() -> torch.device:
    """Where a text encoder is while it is not used."""
    return get_torch_device() if device_settings().vram == "gpu-only" else CPU


def vae_device() -> torch.device:
    """The device that VAEs run on."""
    return CPU if device_settings().vae_on_cpu else get_torch_device()


def vae_offload_device() -> torch.device:
    """Where a VAE is while it is not used."""
    return vae_device() if device_settings().vram == "gpu-only" else CPU


def intermediate_device() -> torch.device:
    """Where latents, pictures and conditioning are between nodes."""
    return get_torch_device() if device_settings().vram == "gpu-only" else CPU


def reserved_memory() -> int:
    """Bytes of the device that are left to other programs (`--reserve-vram`)."""
    given = device_settings().reserve_gb
    if given is not None:
        return int(given * GB)
    # Windows moves what does not fit into main memory without a word, which is slower than not to take it.
    return int((0.6 if sys.platform == "win32" else 0.4) * GB)


def minimum_inference_memory() -> int:
    """Bytes that are kept free for what a forward pass computes, when the model does not say."""
    return int(0.8 * GB) + reserved_memory()


def maximum_memory_for_weights(device: torch.device) -> int:
    """Bytes of weights that are thought to fit on the device next to a forward pass."""
    return int(device_of(device).total() * 0.88) - minimum_inference_memory()


def soft_empty_cache() -> None:
    """Give what torch holds without use on the device back to the driver."""
    device_of(get_torch_device()).empty_cache()
