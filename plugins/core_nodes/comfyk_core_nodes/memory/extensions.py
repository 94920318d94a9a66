"""What node packs register on a patcher: functions by kind and by key, so that one pack can find its own again.

Callbacks are called with the patcher: `on_clone` (and the clone), `on_load_after` (and the device, the budget, whether
patches were forced, whether all was loaded), `on_detach_after`, `on_inject_model`, `on_eject_model`; for a run
`on_pre_run`, `on_prepare_state` (before each evaluation, and the sigmas `[B]`, the model options) and `on_cleanup`.

Wrappers run around a call: they get what is inside of them, then its arguments.

| kind | around | arguments |
|---|---|---|
| `outer_sample` | a run, loading included | noise, latent, sampler, sigmas, mask, callback, disable_pbar, seed |
| `prepare_sampling` | loading | patcher, shape of the noise, conditionings |
| `sampler_sample` | the sampler | guider, sigmas, extra_args, callback, noise, latent, mask, disable_pbar |
| `predict_noise` | the guider at one level | latent, sigmas `[B]`, model options, seed |
| `calc_cond_batch` | the model for sets of conditionings | model, sets, latent, sigmas, model options |
| `apply_model` | the model | latent, sigmas, c_concat, c_crossattn, control, transformer options |
| `diffusion_model` | the network | input, timesteps, context, y, control, transformer options |

During a run they are in the transformer options, as `wrappers` and `callbacks`, where nodes may also have put some.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Registry = dict[str, dict[str | None, list[Any]]]

_IN_OPTIONS = ("wrappers", "callbacks")


def register(registry: Registry, kind: str, key: str | None, function: Callable[..., Any]) -> None:
    """Add a function to those of this kind and key."""
    registry.setdefault(kind, {}).setdefault(key, []).append(function)


def all_of(registry: Mapping[str, Mapping[Any, Sequence[Any]]], kind: str) -> list[Callable[..., Any]]:
    """The functions of this kind, whatever their keys, in the order that they were registered in."""
    return [function for functions in registry.get(kind, {}).values() for function in functions]


def put_into_options(transformer_options: dict[str, Any], wrappers: Registry, callbacks: Registry) -> None:
    """Add a patcher's functions to those in the options, each after those of its kind and key."""
    for name, registry in zip(_IN_OPTIONS, (wrappers, callbacks), strict=True):
        held = transformer_options.setdefault(name, {})
        for kind, by_key in registry.items():
            for key, functions in by_key.items():
                held.setdefault(kind, {}).setdefault(key, []).extend(functions)


def move_extensions(transformer_options: Mapping[str, Any], *places: Any) -> None:
    """Call `to`, where a function in the options has it, with each of these: a device, a dtype."""
    for function in _in_options(transformer_options):
        if hasattr(function, "to"):
            for place in places:
                function.to(place)


def _in_options(transformer_options: Mapping[str, Any]) -> Iterator[Any]:
    for name in _IN_OPTIONS:
        for by_key in transformer_options.get(name, {}).values():
            for functions in by_key.values():
                yield from functions


class Wrapped:
    """A call with the wrappers around it. A wrapper gets what is inside of it first, then the arguments.

    `class_obj` is the object whose method is called. The names are the field's.
    """

    def __init__(
        self, function: Callable[..., Any], class_obj: Any, wrappers: Sequence[Callable[..., Any]]
    ) -> None:
        self.original = function
        self.class_obj = class_obj
        self.wrappers = tuple(wrappers)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.wrappers:
            return self.original(*args, **kwargs)
        inside = Wrapped(self.original, self.class_obj, self.wrappers[1:])
        return self.wrappers[0](inside, *args, **kwargs)

    execute = __call__


def wrapped(
    kind: str,
    transformer_options: Mapping[str, Any] | None,
    function: Callable[..., Any],
    class_obj: Any = None,
) -> Callable[..., Any]:
    """`function` with the wrappers of this kind in the options around it."""
    wrappers = all_of((transformer_options or {}).get("wrappers", {}), kind)
    return Wrapped(function, class_obj, wrappers) if wrappers else function
