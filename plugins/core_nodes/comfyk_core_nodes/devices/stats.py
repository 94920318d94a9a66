"""The devices and their memory as clients see them. No torch is imported for it.

psutil, which takes a hundredth of a second, is imported where it is used.
"""

from __future__ import annotations

from typing import Any

from comfyk_core_nodes.devices.torch_import import loaded_torch


def device_stats() -> list[dict[str, Any]]:
    """The devices as `/system_stats` has them, sizes in bytes. Until torch has started a GPU this is the CPU.

    `torch_vram_total` is what torch has taken from the device, `torch_vram_free` the part of it not in use.
    """
    torch = loaded_torch()
    if torch is not None and torch.cuda.is_initialized():
        # The device that jobs run on comes first: clients that know of one device show that.
        current = torch.cuda.current_device()
        indexes = sorted(range(torch.cuda.device_count()), key=lambda index: index != current)
        return [_cuda_stats(torch, index) for index in indexes]
    if torch is not None and torch.xpu.is_available():
        return [_xpu_stats(torch, index) for index in range(torch.xpu.device_count())]
    import psutil

    memory = psutil.virtual_memory()
    kind = "mps" if torch is not None and torch.backends.mps.is_available() else "cpu"
    return [
        {
            "name": kind,
            "type": kind,
            "index": None,
            "vram_total": memory.total,
            "vram_free": memory.available,
            "torch_vram_total": memory.total,
            "torch_vram_free": memory.available,
        }
    ]


def _cuda_stats(torch: Any, index: int) -> dict[str, Any]:
    free, total = torch.cuda.mem_get_info(index)
    reserved = torch.cuda.memory_reserved(index)
    unused = reserved - torch.cuda.memory_stats(index).get("active_bytes.all.current", 0)
    return {
        "name": f"cuda:{index} {torch.cuda.get_device_name(index)} : {torch.cuda.get_allocator_backend()}",
        "type": "cuda",
        "index": index,
        "vram_total": total,
        "vram_free": free + unused,
        "torch_vram_total": reserved,
        "torch_vram_free": unused,
    }


def _xpu_stats(torch: Any, index: int) -> dict[str, Any]:
    stats = torch.xpu.memory_stats(index)
    reserved = stats.get("reserved_bytes.all.current", 0)
    unused = reserved - stats.get("active_bytes.all.current", 0)
    total = torch.xpu.get_device_properties(index).total_memory
    return {
        "name": f"xpu:{index} {torch.xpu.get_device_name(index)}",
        "type": "xpu",
        "index": index,
        "vram_total": total,
        "vram_free": total - reserved + unused,
        "torch_vram_total": reserved,
        "torch_vram_free": unused,
    }


def taken_memory() -> int:
    """Bytes of main memory and of torch's on the GPUs."""
    import psutil

    taken = psutil.Process().memory_info().rss
    torch = loaded_torch()
    if torch is not None and torch.cuda.is_initialized():
        taken += sum(torch.cuda.memory_reserved(index) for index in range(torch.cuda.device_count()))
    return taken
