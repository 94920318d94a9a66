"""What torch computes on: whether torch is there yet, the devices and their memory, and getting memory back.

Nothing here imports torch but `warm_up` and `job_context`, which run on threads of their own. psutil, which
takes a hundredth of a second, is imported where it is used.
"""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from comfyk_core_nodes.memory.freed import give_back
from comfyk_core_nodes.memory.settings import device_settings

log = logging.getLogger(__name__)

WARM_UP_DELAY_S = 0.5
"""Importing torch takes 2 s, in parts of it nothing else runs: the first requests come before it."""
SHORT_JOB_S = 0.5
"""After a job that was shorter, giving back freed memory is not worth its time."""


def loaded_torch() -> Any | None:
    """torch when its import is through, None before. It may be under way in another thread."""
    torch = sys.modules.get("torch")
    if torch is None or getattr(torch.__spec__, "_initializing", False):
        return None
    return torch


def torch_version() -> str | None:
    """The version of the torch that is installed, without importing it."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return None


def warm_up() -> None:
    """Import what the first job would wait for, and start the GPU driver. An error is only logged."""
    try:
        import torch
        from PIL import Image

        from comfyk_core_nodes.models import bpe, checkpoint  # noqa: F401
        from comfyk_core_nodes.sampling import latents  # noqa: F401

        bpe.clip_tokenizer()
        Image.preinit()
        if torch.cuda.is_available():
            torch.cuda.init()
    except Exception:
        log.warning("torch cannot be used", exc_info=True)


def warm_up_later() -> threading.Timer:
    """Run `warm_up` on a daemon thread in a moment. Until then the timer can be cancelled."""
    timer = threading.Timer(WARM_UP_DELAY_S, warm_up)
    timer.name = "warm-up"
    timer.daemon = True
    timer.start()
    return timer


@contextmanager
def job_context() -> Iterator[None]:
    """Run a job without the bookkeeping for gradients (`torch.inference_mode`), on this thread.

    Memory that weights are widened into is kept until its end, and what was freed is given back then. The job waits
    for the import of torch, whatever nodes it has: nearly all need it, and without this the node that is the first to
    import it would run in the wrong mode. So a job without torch nodes waits for up to the 2 s that the import takes
    when it comes in the first seconds of the server; later it loses microseconds.
    """
    import torch

    from comfyk_core_nodes.models.mapped import scratch_memory

    if device_settings().deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
    started = time.monotonic()
    try:
        with scratch_memory(), torch.inference_mode():
            yield
    finally:
        if time.monotonic() - started > SHORT_JOB_S:
            give_back()


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


def free_memory(unload_models: bool = False) -> tuple[int, int]:
    """Collect garbage and hand unused memory back; with `unload_models` take all models off the devices before.

    Returns how many models that were, and the bytes that this process gave up. Models stay within reach of the
    workflow's results, and are loaded again when they are used.
    """
    before = _taken()
    manager = sys.modules.get("comfyk_core_nodes.memory.manager")
    models = manager.unload_all_models()[0] if unload_models and manager is not None else 0
    gc.collect()
    torch = loaded_torch()
    if torch is not None:
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        elif torch.xpu.is_available():
            torch.xpu.empty_cache()
        elif torch.backends.mps.is_available():
            torch.mps.empty_cache()
    return models, max(0, before - _taken())


def _taken() -> int:
    """Bytes of main memory and of torch's on the GPUs."""
    import psutil

    taken = psutil.Process().memory_info().rss
    torch = loaded_torch()
    if torch is not None and torch.cuda.is_initialized():
        taken += sum(torch.cuda.memory_reserved(index) for index in range(torch.cuda.device_count()))
    return taken


def out_of_memory(error: BaseException) -> str | None:
    """When the error says so: let go of what the failed call held, and return advice for the user."""
    where = exhausted(error)
    if where is None:
        return None
    # The traceback keeps the tensors of each function in it alive.
    traceback.clear_frames(error.__traceback__)
    free_memory(unload_models=True)
    return (
        f"{where} ran out of memory; what could be freed was freed. Try a smaller picture or batch, "
        "a model with smaller weights (fp8), tiled VAE decoding, or close other programs that use the memory."
    )


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
