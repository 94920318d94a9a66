"""Whether an error says that memory ran out. Asking does nothing else."""

from __future__ import annotations

from comfyk_core_nodes.devices.torch_import import loaded_torch


def exhausted(error: BaseException) -> str | None:
    """What ran out of memory, if that is what the error says."""
    torch = loaded_torch()
    text = str(error)
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return "The GPU"
    if isinstance(error, MemoryError):
        return "The computer"
    if isinstance(error, RuntimeError):
        # torch has no type of its own for these two.
        if "DefaultCPUAllocator" in text and "allocate memory" in text:
            return "The computer"
        if "MPS backend out of memory" in text:
            return "The GPU"
    return None
