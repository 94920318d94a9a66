"""Where the weights of one model are: at home, on a device whole, or on a device in part and streamed.

The model's home weights are never written to. For each module with weights of its own there are three ways to be:

- *home*: as the model was built, usually views of the mapped file;
- *resident*: its weights are on the device, cast and patched, until something takes them off;
- *streamed*: its weights come to the device while its `forward` runs and are dropped after it.

The layers of `comfyk_core_nodes.weights.layers` make a compute copy of their weights themselves, and without one they
stream by themselves. In any other module, which may be a node pack's, the parameters are replaced. All clones of a
patcher share one `Residency`, which is kept in the model, so that it knows what is there whichever clone comes next.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any

import torch
from comfyk import check_interrupted
from torch import Tensor, nn

from comfyk_core_nodes.devices.device import CPU
from comfyk_core_nodes.memory.objects import ObjectPatches
from comfyk_core_nodes.memory.patches import Patch, patched_weight, string_to_seed, tensors_of
from comfyk_core_nodes.memory.placement import (
    ModuleState,
    Wanted,
    Wrapper,
    can_stream,
    changes_of,
    modules_with_weights,
    plan_residents,
    split_changes,
)
from comfyk_core_nodes.memory.rounding import stochastic_rounding
from comfyk_core_nodes.weights.layers import Embedding, StoredWeights
from comfyk_core_nodes.weights.mapped import drop_pages, scratch_memory
from comfyk_core_nodes.weights.mapped_files import check_all_there, check_unchanged

log = logging.getLogger(__name__)

_THREADS = min(4, os.cpu_count() or 1)
"""How many modules are cast at a time on the CPU: while one waits for the kernel to give it pages, another computes."""


class Residency:
    """See the module. It holds no reference to the model, so that a model that nothing uses is freed at once."""

    def __init__(self) -> None:
        self.homes: dict[str, Any] = {}
        """The home weights of parameters that are replaced now, by key."""
        self.wanted: Wanted | None = None
        """How the model is loaded; None when it is at home."""
        self.loaded_bytes = 0
        """Bytes that the weights take on the device, those that are home there and used as they are left out."""
        self.moved_bytes = 0
        """Bytes of weights that were put onto devices since the model was built."""
        self.objects = ObjectPatches()
        self.ejectors: list[Callable[[], Any]] = []
        """What takes out again what node packs injected into the model."""
        self._states: dict[str, ModuleState] = {}
        self._hooks: dict[str, list[Any]] = {}
        self._keys: frozenset[str] | None = None

    def keys(self, model: nn.Module) -> frozenset[str]:
        """The keys of the model's state dict as it was built."""
        if self._keys is None or not self.objects.patches:
            self._keys = frozenset(model.state_dict())
        return self._keys

    def eject(self) -> None:
        """Take out what node packs injected, the last first."""
        while self.ejectors:
            self.ejectors.pop()()

    def home_state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """The state dict of the model as it was built, without a copy of anything."""
        return {key: self.homes.get(key, value) for key, value in model.state_dict().items()}

    def nbytes(self, model: nn.Module, wanted: Wanted) -> int:
        """The bytes that the whole model takes on the device."""
        return sum(size for size, _ in self._sizes(model, wanted).values())

    # --- loading -------------------------------------------------------------------------------------------

    def load(self, model: nn.Module, wanted: Wanted, budget: int | None = None) -> None:
        """Bring the model into the state that is wanted, with at most `budget` bytes of it on the device.

        Only what differs is done: nothing for a model that is there already, and only patched weights when the
        patches change. None is no limit. What does not fit is streamed, and room is left to do so. An exception on
        the way, also an interrupt, leaves the model at home whole. Raises ModelFileError when the file of a weight
        was written to since it was read.
        """
        units = list(modules_with_weights(model))
        sizes = self._sizes(model, wanted)
        resident = plan_residents(sizes, budget)
        goals = {
            path: ModuleState(wanted, path in resident, changes_of(path, module, wanted))
            for path, module in units
        }
        stale = [
            (path, module)
            for path, module in units
            if path not in self._states or not self._states[path].same(goals[path])
        ]
        try:
            for path, module in stale:
                self._reset(path, module)
            check_unchanged(self._all_weights(model, wanted))
            if stale:
                self._enter_all(stale, goals, threads=_THREADS if wanted.device.torch_device == CPU else 1)
                check_all_there()
        except BaseException:
            self.unload(model)
            raise
        new, self.wanted = self.wanted is None, wanted
        self.loaded_bytes = sum(sizes[path][0] for path in resident)
        if stale and len(resident) < len(units):
            log.info(
                "%s: %.0f of %.0f MB of weights on %s, the rest is streamed",
                type(model).__name__,
                self.loaded_bytes / 2**20,
                sum(size for size, _ in sizes.values()) / 2**20,
                wanted.device.torch_device,
            )
        elif stale and new:
            where = wanted.device.torch_device
            log.info("%s: %.0f MB of weights on %s", type(model).__name__, self.loaded_bytes / 2**20, where)

    def shrink(self, model: nn.Module, nbytes: int) -> bool:
        """Take at least `nbytes` off the device, as far as there are so many: those modules are streamed then.

        Returns whether some are left there.
        """
        if self.wanted is None or nbytes >= self.loaded_bytes:
            self.restore(model)
        else:
            self.load(model, self.wanted, self.loaded_bytes - nbytes)
        return self.wanted is not None

    def restore(self, model: nn.Module) -> None:
        """Bring the whole model back to how it was built: weights, objects, and what node packs injected."""
        self.eject()
        self.unload(model)
        self.replace_objects(model, {})

    def unload(self, model: nn.Module) -> None:
        """Bring every weight home. Takes no memory and cannot fail half way."""
        for path, module in modules_with_weights(model):
            self._reset(path, module)
        self._states.clear()
        self.wanted = None
        self.loaded_bytes = 0

    def _sizes(self, model: nn.Module, wanted: Wanted) -> dict[str, tuple[int, bool]]:
        """By module: the bytes that its weights take on the device, and whether it can be streamed."""
        sizes: dict[str, tuple[int, bool]] = {}
        for path, module in modules_with_weights(model):
            copy_dtype = wanted.copy_dtype(module)
            copied = copy_dtype is not None or wanted.device.torch_device != CPU
            size = 0
            for key, name, home in self._weights(path, module):
                if copy_dtype is not None and isinstance(module, Embedding):
                    continue  # only the rows that are looked up go to the device
                dtype = wanted.kept_dtype(home)
                changed = key in wanted.patches or key in wanted.wrappers
                if copy_dtype is not None and name == "weight" and isinstance(module, StoredWeights):
                    device = wanted.device.tensor_device
                    size += home.numel() * module.prepared_itemsize(device, copy_dtype, changed)
                elif copied or changed or dtype != home.dtype:
                    size += home.numel() * dtype.itemsize
            sizes[path] = size, can_stream(module)
        return sizes

    def _weights(self, path: str, module: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
        """Key, name and home of the module's own weights and buffers."""
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    key = f"{path}.{name}" if path else name
                    yield key, name, self.homes.get(key, tensor)

    def _all_weights(self, model: nn.Module, wanted: Wanted) -> Iterator[Tensor]:
        """The home weights, and what is in the patches."""
        for path, module in modules_with_weights(model):
            for _, _, home in self._weights(path, module):
                yield home
        for patches in wanted.patches.values():
            for patch in patches:
                yield from tensors_of(patch)

    def _enter_all(
        self, units: Sequence[tuple[str, nn.Module]], goals: Mapping[str, ModuleState], threads: int
    ) -> None:
        """Bring the modules into their states. The first exception, also an interrupt, ends it for all threads."""
        # The largest first: the scratch memory is got once, and the threads end at about the same time.
        waiting = iter(sorted(units, key=lambda unit: _stored_bytes(unit[1]), reverse=True))

        def enter_some() -> int:
            moved = 0
            try:
                # Normal tensors, whatever mode this is called in: training nodes may want gradients of them.
                with scratch_memory(), torch.inference_mode(False), torch.no_grad():
                    for path, module in waiting:
                        check_interrupted()
                        moved += self._enter(path, module, goals[path])
            finally:
                deque(waiting, maxlen=0)
            return moved

        with ThreadPoolExecutor(threads, "weights") as pool:
            running = [pool.submit(copy_context().run, enter_some) for _ in range(threads)]
            try:
                self.moved_bytes += sum(entered.result() for entered in running)
            finally:
                deque(waiting, maxlen=0)

    def _enter(self, path: str, module: nn.Module, goal: ModuleState) -> int:
        """Bring a module into its state. Returns the bytes that were put on the device."""
        self._states[path] = goal
        moved = 0
        dtype = goal.wanted.copy_dtype(module)
        if isinstance(module, StoredWeights) and (dtype is not None or not goal.resident):
            module.weight_function = _functions(path, "weight", goal)
            module.bias_function = _functions(path, "bias", goal)
            if goal.resident and dtype is not None:
                moved = module.prepare(goal.wanted.device.tensor_device, dtype)
            copied = module.prepared
        elif goal.resident:
            moved = self._replace(path, module, goal)
            copied = any(key in self.homes for key, _, _ in self._weights(path, module))
        else:
            self._stream(path, module, goal)
            copied = False
        if copied:
            for _, _, home in self._weights(path, module):
                drop_pages(home)
        return moved

    def _replace(self, path: str, module: nn.Module, goal: ModuleState) -> int:
        """Put the module's weights on the device, cast and changed, in place of those at home. Returns their bytes."""
        wanted = goal.wanted
        moved = 0
        for key, name, home in list(self._weights(path, module)):
            dtype = wanted.kept_dtype(home)
            patches, wrappers = split_changes(goal.changes.get(name, []))
            tensor = wanted.device.put(home, dtype)
            if patches:
                # Of what is kept, as ComfyUI has it: from the file's own precision another picture would come.
                tensor = _patched(module, tensor, patches, key, dtype)
            for wrapper in wrappers:
                tensor = wrapper(tensor)
            if tensor is home:
                continue
            moved += tensor.nbytes
            self.homes[key] = home
            _put(module, name, tensor)
        return moved

    def _stream(self, path: str, module: nn.Module, goal: ModuleState) -> None:
        """Fetch the module's weights before its forward and drop them after it, also after an exception."""
        depth = 0

        def before(module: nn.Module, _args: Any) -> None:
            nonlocal depth
            depth += 1
            if depth > 1:
                return
            self.moved_bytes += self._replace(path, module, goal)

        def after(module: nn.Module, _args: Any, _output: Any) -> None:
            nonlocal depth
            depth -= 1
            if depth == 0:
                self._bring_home(path, module)

        self._hooks[path] = [
            module.register_forward_pre_hook(before),
            module.register_forward_hook(after, always_call=True),
        ]

    def _reset(self, path: str, module: nn.Module) -> None:
        state = self._states.pop(path, None)
        for hook in self._hooks.pop(path, ()):
            hook.remove()
        if state is not None and isinstance(module, StoredWeights):
            module.release()
            module.weight_function = []
            module.bias_function = []
        self._bring_home(path, module)

    def _bring_home(self, path: str, module: nn.Module) -> None:
        for held in (module._parameters, module._buffers):
            for name in held:
                home = self.homes.pop(f"{path}.{name}" if path else name, None)
                if home is not None:
                    _put(module, name, home)

    # --- object patches ------------------------------------------------------------------------------------

    def replace_objects(self, model: nn.Module, patches: Mapping[str, Any]) -> None:
        """Put these objects at these dotted names, and back what was at others. Raises AttributeError."""
        self.objects.replace(model, patches, partial(self._forget_below, model))

    def _forget_below(self, model: nn.Module, name: str) -> None:
        """Bring home what is about to be replaced."""
        for path, module in modules_with_weights(model):
            if path == name or path.startswith(f"{name}."):
                self._reset(path, module)


def residency_of(model: nn.Module) -> Residency:
    """The residency of the model; made on first use."""
    known = model.__dict__.get("_residency")
    if known is None:
        known = model.__dict__["_residency"] = Residency()
    return known


def _stored_bytes(module: nn.Module) -> int:
    """The bytes of the module's own parameters, as they are now."""
    return sum(parameter.nbytes for parameter in module.parameters(recurse=False))


def _functions(path: str, name: str, goal: ModuleState) -> list[Wrapper]:
    """The changes of a layer's parameter as functions of the weight that is already cast and on the device."""
    patches, wrappers = split_changes(goal.changes.get(name, []))
    if not patches:
        return wrappers
    key = f"{path}.{name}" if path else name
    return [lambda weight: patched_weight(weight, patches, key, weight.dtype), *wrappers]


def _patched(
    module: nn.Module, weight: Tensor, patches: Sequence[Patch], key: str, dtype: torch.dtype
) -> Tensor:
    """`patched_weight`, also for weights that are stored divided by a scale: patches are to what they stand for."""
    scale = getattr(module, "scale_weight", None) if key.endswith("weight") else None
    if scale is None:
        return patched_weight(weight, patches, key, dtype)
    scale = scale.to(device=weight.device, dtype=torch.float32)
    whole = patched_weight(weight.float() * scale, patches, key, torch.float32)
    return stochastic_rounding(whole / scale, dtype, seed=string_to_seed(key))


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    if name in module._buffers:
        module._buffers[name] = tensor
    elif isinstance(tensor, nn.Parameter):
        module._parameters[name] = tensor
    else:
        module._parameters[name] = nn.Parameter(tensor, requires_grad=False)
