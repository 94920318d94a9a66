"""Getting memory back: on demand, and after an error that says that it ran out. Importing this imports no torch."""

from __future__ import annotations

import gc
import traceback

from comfyk_core_nodes.devices.exhausted import exhausted
from comfyk_core_nodes.devices.freed import give_back
from comfyk_core_nodes.devices.stats import taken_memory
from comfyk_core_nodes.devices.torch_import import loaded_torch


def free_memory(unload_models: bool = False) -> tuple[int, int]:
    """Collect garbage and hand unused memory back; with `unload_models` take all models off the devices before.

    Returns how many models that were, and the bytes that this process gave up. Models stay within reach of the
    workflow's results, and are loaded again when they are used.
    """
    before = taken_memory()
    torch = loaded_torch()
    models = 0
    if unload_models and torch is not None:
        from comfyk_core_nodes.memory.manager import unload_all_models

        models = unload_all_models()[0]
    gc.collect()
    if torch is not None:
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        elif torch.xpu.is_available():
            torch.xpu.empty_cache()
        elif torch.backends.mps.is_available():
            torch.mps.empty_cache()
    give_back()
    return models, max(0, before - taken_memory())


def free_after(error: BaseException) -> str | None:
    """When the error says that memory ran out: let go of what the failed call held, take all models off the devices,
    and return advice for the user. Of another error None, and nothing is done.
    """
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
