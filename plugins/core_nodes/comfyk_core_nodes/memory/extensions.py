"""What node packs register on a patcher: functions by kind and by key, so that one pack can find its own again.

Callbacks are called with the patcher: `on_clone` (and the clone), `on_load_after` (and the device, the budget, whether
patches were forced, whether all was loaded), `on_detach_after`, `on_pre_run`, `on_cleanup`, `on_inject_model`. Wrappers
run around parts of sampling: `outer_sample`, `prepare_sampling`, `sampler_sample`, `predict_noise`,
`calc_cond_batch`, `apply_model`, `diffusion_model`; the sampler calls those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Registry = dict[str, dict[str | None, list[Any]]]


def register(registry: Registry, kind: str, key: str | None, function: Callable[..., Any]) -> None:
    """Add a function to those of this kind and key."""
    registry.setdefault(kind, {}).setdefault(key, []).append(function)


def all_of(registry: Registry, kind: str) -> list[Callable[..., Any]]:
    """The functions of this kind, whatever their keys, in the order that they were registered in."""
    return [function for functions in registry.get(kind, {}).values() for function in functions]
