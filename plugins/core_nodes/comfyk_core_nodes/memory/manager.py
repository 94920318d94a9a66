"""The models that are loaded, and room for more: the least recently used goes first.

Models are held weakly: one that no node result refers to any more is freed by Python, and its memory with it.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from comfyk_core_nodes.devices.device import CPU, device_of, minimum_inference_memory, reserved_memory
from comfyk_core_nodes.devices.settings import device_settings
from comfyk_core_nodes.memory.residency import residency_of

if TYPE_CHECKING:
    from comfyk_core_nodes.memory.patcher import ModelPatcher

log = logging.getLogger(__name__)

_loaded: list[weakref.ref[nn.Module]] = []
"""The models that are loaded, the most recently used first."""


def loaded_models() -> list[nn.Module]:
    """The models that are on a device, the most recently used first, whichever patchers they were loaded by."""
    alive = [
        model for ref in _loaded if (model := ref()) is not None and residency_of(model).wanted is not None
    ]
    if len(alive) < len(_loaded):
        _loaded[:] = [weakref.ref(model) for model in alive]
    return alive


def load_models_gpu(
    models: Iterable[ModelPatcher],
    memory_required: int = 0,
    force_patch_weights: bool = False,
    minimum_memory_required: int | None = None,
    force_full_load: bool = False,
) -> None:
    """Load these models, each on its `load_device` with its patches, and take others off as far as is needed.

    `memory_required` is how many bytes the forward pass takes on the device besides the weights;
    `minimum_memory_required` how many it takes at least, if it can do with less. With `force_full_load` a model that
    is larger than the room is loaded whole all the same. `force_patch_weights` is there for callers of ComfyUI's
    function; patches always apply. Raises torch.OutOfMemoryError; then the model it came from is not loaded at all.
    """
    wanted: list[ModelPatcher] = []
    for model in models:
        for each in (model, *model.model_patches_models()):
            if all(each is not other for other in wanted):
                wanted.append(each)
    devices: dict[torch.device, list[ModelPatcher]] = {}
    for model in wanted:
        devices.setdefault(model.load_device, []).append(model)
    for device, together in devices.items():
        most = _inference_memory(device, memory_required)
        least = (
            most if minimum_memory_required is None else _inference_memory(device, minimum_memory_required)
        )
        needed = sum(model.memory_to_load() for model in together)
        if device_settings().smart_memory:
            free_memory(needed + most, device, keep_loaded=together)
        else:
            for other in _others(device, together):
                residency_of(other).restore(other)
            device_of(device).empty_cache()
        # The small models that come with a large one are last, and go first: it is the large one that can stream.
        for model in reversed(together):
            model.load(None if force_full_load else _budget(model, least))
            _used(model.model)


def load_model_gpu(model: ModelPatcher) -> None:
    """`load_models_gpu` for one model."""
    load_models_gpu([model])


def free_memory(
    memory_required: float, device: torch.device, keep_loaded: Sequence[ModelPatcher] = ()
) -> list[nn.Module]:
    """Make `memory_required` bytes free on the device by taking models off, the least recently used first.

    Of the last one only as much is taken off as is needed. The models of `keep_loaded` stay. Returns the models that
    are off altogether. Less may be free afterwards, when there was no more to take off.
    """
    where = device_of(device)
    unloaded: list[nn.Module] = []
    for model in reversed(_others(device, keep_loaded)):
        missing = int(memory_required - where.free())
        if missing <= 0:
            break
        before = residency_of(model).loaded_bytes
        if not residency_of(model).shrink(model, missing):
            unloaded.append(model)
        where.empty_cache()
        freed = before - residency_of(model).loaded_bytes
        log.debug("%s: %.0f MB taken off %s", type(model).__name__, freed / 2**20, device)
    return unloaded


def unload_all_models() -> tuple[int, int]:
    """Take all models off their devices. Returns how many they were, and how many bytes they took there."""
    models = loaded_models()
    devices = {state.wanted.device for model in models if (state := residency_of(model)).wanted is not None}
    nbytes = sum(residency_of(model).loaded_bytes for model in models)
    for model in models:
        residency_of(model).restore(model)
    _loaded.clear()
    for device in devices:
        device.empty_cache()
    return len(models), nbytes


def unload_model_and_clones(model: ModelPatcher) -> None:
    """Take this model off its device, whichever clone of it was loaded."""
    residency_of(model.model).restore(model.model)


def _used(model: nn.Module) -> None:
    _loaded[:] = [
        weakref.ref(model),
        *(weakref.ref(other) for other in loaded_models() if other is not model),
    ]


def _others(device: torch.device, keep: Sequence[ModelPatcher]) -> list[nn.Module]:
    """The models on the device but those to keep, the most recently used first."""
    return [
        model
        for model in loaded_models()
        if (wanted := residency_of(model).wanted) is not None
        and wanted.device.torch_device == device
        and not any(model is kept.model for kept in keep)
    ]


def _inference_memory(device: torch.device, required: int) -> int:
    """Bytes to keep free besides weights. Of main memory nothing is reserved: other programs swap."""
    if device == CPU:
        return required
    return max(minimum_inference_memory(), required + reserved_memory())


def _budget(model: ModelPatcher, keep_free: int) -> int | None:
    """The bytes of this model that may be on its device. None is no limit."""
    device = model.load_device
    if device != CPU and device_settings().vram == "none":
        return 0
    if device != CPU and device_settings().vram in ("high", "gpu-only"):
        return None
    return max(0, device_of(device).free() + model.loaded_size() - keep_free)
