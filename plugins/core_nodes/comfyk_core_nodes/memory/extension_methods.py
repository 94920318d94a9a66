"""Methods of `ModelPatcher` for what node packs add to one: callbacks, wrappers, attachments, injections, models.

`memory.extensions` lists the kinds of callbacks and wrappers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from comfyk_core_nodes.memory.extensions import Registry, all_of, register

Function = Callable[..., Any]


class Extended(Protocol):
    """What these methods use of a patcher."""

    model: Any
    callbacks: Registry
    wrappers: Registry
    attachments: dict[str, Any]
    injections: dict[str, list[Any]]
    additional_models: dict[str, list[Any]]

    def model_patches_call_function(self, function_name: str) -> None: ...


def add_callback(patcher: Extended, call_type: str, callback: Function) -> None:
    """Call this with the patcher when `call_type` happens."""
    register(patcher.callbacks, call_type, None, callback)


def add_callback_with_key(patcher: Extended, call_type: str, key: str, callback: Function) -> None:
    register(patcher.callbacks, call_type, key, callback)


def remove_callbacks_with_key(patcher: Extended, call_type: str, key: str) -> None:
    patcher.callbacks.get(call_type, {}).pop(key, None)


def get_callbacks(patcher: Extended, call_type: str, key: str | None) -> list[Function]:
    return patcher.callbacks.get(call_type, {}).get(key, [])


def get_all_callbacks(patcher: Extended, call_type: str) -> list[Function]:
    return all_of(patcher.callbacks, call_type)


def call_back(patcher: Extended, call_type: str, *arguments: Any) -> None:
    """Call what waits for this, in the order in which it was added."""
    for callback in all_of(patcher.callbacks, call_type):
        callback(patcher, *arguments)


def add_wrapper(patcher: Extended, wrapper_type: str, wrapper: Function) -> None:
    """Run this around a part of sampling."""
    register(patcher.wrappers, wrapper_type, None, wrapper)


def add_wrapper_with_key(patcher: Extended, wrapper_type: str, key: str, wrapper: Function) -> None:
    register(patcher.wrappers, wrapper_type, key, wrapper)


def remove_wrappers_with_key(patcher: Extended, wrapper_type: str, key: str) -> None:
    patcher.wrappers.get(wrapper_type, {}).pop(key, None)


def get_wrappers(patcher: Extended, wrapper_type: str, key: str | None) -> list[Function]:
    return patcher.wrappers.get(wrapper_type, {}).get(key, [])


def get_all_wrappers(patcher: Extended, wrapper_type: str) -> list[Function]:
    return all_of(patcher.wrappers, wrapper_type)


def set_attachments(patcher: Extended, key: str, attachment: Any) -> None:
    patcher.attachments[key] = attachment


def get_attachment(patcher: Extended, key: str) -> Any:
    return patcher.attachments.get(key)


def remove_attachments(patcher: Extended, key: str) -> None:
    patcher.attachments.pop(key, None)


def set_injections(patcher: Extended, key: str, injections: list[Any]) -> None:
    """Objects whose `inject(patcher)` is called after loading, and `eject(patcher)` before that changes."""
    patcher.injections[key] = injections


def remove_injections(patcher: Extended, key: str) -> None:
    patcher.injections.pop(key, None)


def inject_model(patcher: Extended, ejectors: list[Callable[[], Any]]) -> None:
    """Inject all there is; `ejectors` get what takes it out again, to be called from the last to the first."""
    injections = [injection for found in patcher.injections.values() for injection in found]
    if injections:
        ejectors.append(partial(call_back, patcher, "on_eject_model"))
    for injection in injections:
        ejectors.append(partial(injection.eject, patcher))
        injection.inject(patcher)
    if injections:
        call_back(patcher, "on_inject_model")


def set_additional_models(patcher: Extended, key: str, models: list[Any]) -> None:
    """Models that are cloned and loaded with this one."""
    patcher.additional_models[key] = models


def get_additional_models(patcher: Extended) -> list[Any]:
    return [model for models in patcher.additional_models.values() for model in models]


def pre_run(patcher: Extended) -> None:
    """A run begins: the model knows the patcher as `current_patcher` until `cleanup`."""
    patcher.model.current_patcher = patcher
    call_back(patcher, "on_pre_run")


def prepare_state(patcher: Extended, timestep: Any, model_options: dict[str, Any]) -> None:
    """The model is about to be evaluated at `timestep` (sigmas, `[B]`)."""
    call_back(patcher, "on_prepare_state", timestep, model_options)


def cleanup(patcher: Extended) -> None:
    """The run is over, however it ended."""
    patcher.model.current_patcher = None
    patcher.model_patches_call_function("cleanup")
    call_back(patcher, "on_cleanup")
