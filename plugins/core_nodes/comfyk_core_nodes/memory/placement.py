"""What is to become of each module of a model: in what it is kept, what changes it, and whether it stays on the device.

This is the arithmetic of it; `memory.residency` does what comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from comfyk_core_nodes.devices.device import Device
from comfyk_core_nodes.memory.patches import Patch
from comfyk_core_nodes.weights.layers import StoredWeights

Wrapper = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Wanted:
    """How a model is to be loaded.

    `weight_dtype` is what floating-point weights are kept in (None: as they are), `compute_dtype` what they are
    computed in (None: the same). `patches` and `wrappers` are by key of the state dict; wrappers are functions
    that are applied to a weight after its patches.
    """

    device: Device
    weight_dtype: torch.dtype | None = None
    compute_dtype: torch.dtype | None = None
    patches: Mapping[str, Sequence[Patch]] = field(default_factory=dict)
    wrappers: Mapping[str, Sequence[Wrapper]] = field(default_factory=dict)

    def kept_dtype(self, tensor: Tensor) -> torch.dtype:
        """The dtype that a weight is kept in. Buffers and whole numbers stay as they are."""
        if self.weight_dtype is None or not (isinstance(tensor, nn.Parameter) and tensor.is_floating_point()):
            return tensor.dtype
        return self.weight_dtype

    def copy_dtype(self, module: nn.Module) -> torch.dtype | None:
        """The dtype of the compute copy that the module makes; None if it makes none.

        It makes none where weights are to be kept in another dtype than is computed in; nothing computes in fp8.
        """
        if not isinstance(module, StoredWeights):
            return None
        kept = self.kept_dtype(module.weight)
        return kept if kept.itemsize > 1 and self.compute_dtype in (None, kept) else None


@dataclass(frozen=True, eq=False)
class ModuleState:
    """How one module is loaded, or is to be."""

    wanted: Wanted
    resident: bool
    """Whether its weights stay on the device; they are streamed if not."""
    changes: dict[str, list[Any]]
    """Patches and wrappers by parameter."""

    def same(self, other: ModuleState) -> bool:
        """Whether nothing has to be done to come from one to the other."""
        mine, others = self.wanted, other.wanted
        return (
            self.resident == other.resident
            and mine.device is others.device
            and mine.weight_dtype == others.weight_dtype
            and mine.compute_dtype == others.compute_dtype
            and self.changes.keys() == other.changes.keys()
            # Clones share their patches: the same ones are the same objects.
            and all(
                len(changes) == len(other.changes[name])
                and all(a is b for a, b in zip(changes, other.changes[name], strict=True))
                for name, changes in self.changes.items()
            )
        )


def modules_with_weights(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that have parameters or buffers of their own, with their dotted paths."""
    for path, module in model.named_modules():
        if any(
            tensor is not None for held in (module._parameters, module._buffers) for tensor in held.values()
        ):
            yield path, module


def can_stream(module: nn.Module) -> bool:
    """Whether the module's weights are used only in its own forward, so that they may come just for that."""
    if isinstance(module, StoredWeights):
        return True
    # torch's attention reads the weights of its output layer itself.
    own = type(module).forward is not nn.Module.forward
    return own and not isinstance(module, NonDynamicallyQuantizableLinear)


def plan_residents(sizes: Mapping[str, tuple[int, bool]], budget: int | None) -> set[str]:
    """Which modules stay on the device: all if they fit, else small ones first, with room to stream the largest.

    `sizes` has the bytes of each, and whether it can be streamed. A transfer has a cost of its own whatever its size,
    so the fewest transfers are left.
    """
    if budget is None or sum(size for size, _ in sizes.values()) <= budget:
        return set(sizes)
    resident = {path for path, (_, streams) in sizes.items() if not streams}
    streamed = {path: size for path, (size, streams) in sizes.items() if streams}
    room = budget - sum(sizes[path][0] for path in resident) - max(streamed.values(), default=0)
    for path in sorted(streamed, key=lambda path: streamed[path]):
        room -= streamed[path]
        if room < 0:
            break
        resident.add(path)
    return resident


def changes_of(path: str, module: nn.Module, wanted: Wanted) -> dict[str, list[Any]]:
    """By parameter of the module: its patches, then its wrappers. Only those that have some."""
    changes: dict[str, list[Any]] = {}
    if wanted.patches or wanted.wrappers:
        for held in (module._parameters, module._buffers):
            for name in held:
                key = f"{path}.{name}" if path else name
                found = [*wanted.patches.get(key, ()), *wanted.wrappers.get(key, ())]
                if found:
                    changes[name] = found
    return changes


def split_changes(changes: Sequence[Any]) -> tuple[list[Patch], list[Wrapper]]:
    """Patches are tuples, wrappers are functions."""
    patches = [change for change in changes if isinstance(change, tuple)]
    return patches, [change for change in changes if not isinstance(change, tuple)]
