"""Which widgets the web UI makes for a node, and which of the saved values belongs to which.

A workflow holds the values of a node's widgets in their order, without names. The order follows from the node's schema
and from what the UI adds: `control_after_generate` behind a seed, a button behind a file that can be uploaded, the
inputs of the chosen option behind a dynamic combo.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

Inputs = Mapping[str, Mapping[str, Any]]
"""The inputs of a node as `object_info` has them: `{"required": {name: (type, options)}, "optional": {...}}`."""

MISSING = object()
"""There is no value: the input is left out."""

_VALUES = {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}
"""Types with a widget, and what it holds at first where the schema gives no default."""
_WIDGETS = {
    *_VALUES, "COMBO", "COMFY_DYNAMICCOMBO_V3", "COLOR", "COLORS", "CURVE", "COMPOSITOR", "BOUNDING_BOX",
    "BOUNDING_BOXES", "LOAD_3D", "WEBCAM",
}  # fmt: skip
_BUTTONS = {"AUDIO_RECORD", "IMAGEUPLOAD", "AUDIOUPLOAD", "VIDEOUPLOAD"}
"""Their value is saved, but is no input."""
_NOT_SAVED = {"IMAGECOMPARE", "AUDIO_UI"}
_SEEDS = ("seed", "noise_seed")
_BOX = 4
"""The UI puts a number each for x, y, width and height behind a box."""


class _Saved:
    """The saved values, handed out in order, or by name where names were saved."""

    def __init__(self, values: Sequence[Any] | Mapping[str, Any], named: Mapping[str, Any]) -> None:
        self._named = values if isinstance(values, Mapping) else named
        self._values = iter(() if isinstance(values, Mapping) else values)

    def take(self, name: str) -> Any:
        value = next(self._values, MISSING)
        return self._named.get(name, value)

    def skip(self, count: int = 1) -> None:
        for _ in range(count):
            next(self._values, None)


def widget_values(
    inputs: Inputs,
    values: Sequence[Any] | Mapping[str, Any] = (),
    named: Mapping[str, Any] | None = None,
    marked: Collection[str] = (),
) -> dict[str, Any]:
    """The values of a node's widgets by input name, in their order; what was not saved has its default.

    `values` are the saved ones, `named` those that were saved with their names. `marked` are inputs that the workflow
    says have a widget: packs bring types of their own.
    """
    flat = list(_flat(inputs))
    if not isinstance(values, Mapping):
        values = _without_forced(flat, values, marked)
    found: dict[str, Any] = {}
    _read(flat, _Saved(values, named or {}), found, "", marked)
    return {name: value for name, value in found.items() if value is not MISSING}


def is_dynamic_text(inputs: Inputs, name: str) -> bool:
    """Whether the UI takes `{a|b}` in this text as a choice."""
    return any(
        one == name and kind == "STRING" and options.get("dynamicPrompts")
        for one, kind, options in _flat(inputs)
    )


def _flat(inputs: Inputs) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Name, type and options of each input."""
    for group in ("required", "optional"):
        for name, spec in (inputs.get(group) or {}).items():
            if isinstance(spec, list | tuple) and (parts := list(spec)):
                options = parts[1] if len(parts) > 1 and isinstance(parts[1], Mapping) else {}
                yield name, parts[0], options


def _is_widget(name: str, kind: Any, options: Mapping[str, Any], marked: Collection[str]) -> bool:
    if options.get("forceInput"):
        return False
    return isinstance(kind, list | tuple) or kind in _WIDGETS or "widgetType" in options or name in marked


def _without_forced(
    flat: list[tuple[str, Any, Mapping[str, Any]]], values: Sequence[Any], marked: Collection[str]
) -> Sequence[Any]:
    """Old files hold a value for inputs, too, that cannot have a widget any more; their number tells."""
    forced: list[bool] = []
    for name, kind, options in flat:
        if options.get("forceInput") or _is_widget(name, kind, options, marked):
            forced.append(bool(options.get("forceInput")))
            if options.get("control_after_generate"):
                forced.append(False)
    if len(forced) != len(values):
        return values
    return [value for value, leave_out in zip(values, forced, strict=True) if not leave_out]


def _read(
    flat: list[tuple[str, Any, Mapping[str, Any]]],
    saved: _Saved,
    found: dict[str, Any],
    prefix: str,
    marked: Collection[str],
) -> None:
    for short, kind, options in flat:
        name = prefix + short
        if isinstance(kind, str) and kind in _BUTTONS:
            saved.skip()
            continue
        if not _is_widget(name, kind, options, marked) or (isinstance(kind, str) and kind in _NOT_SAVED):
            continue
        value = saved.take(name)
        choices = _choices(kind, options)
        if value is MISSING or (value is None and choices):
            value = _default(kind, options, choices)
        found[name] = value
        control = options.get("control_after_generate")
        if control or (control is None and kind == "INT" and name in _SEEDS):
            saved.skip(1 if choices is None else 2)  # a combo has a filter beside it
        if kind == "BOUNDING_BOX":
            saved.skip(_BOX)
        if kind == "COMFY_DYNAMICCOMBO_V3":
            for option in options.get("options") or ():
                if option.get("key") == value:
                    _read(list(_flat(option.get("inputs") or {})), saved, found, f"{name}.", marked)


def _choices(kind: Any, options: Mapping[str, Any]) -> list[Any] | None:
    """The options of a combo, else None."""
    if isinstance(kind, list | tuple):
        return list(kind)
    if kind == "COMBO":
        return list(options.get("options") or ())
    if kind == "COMFY_DYNAMICCOMBO_V3":
        return [option.get("key") for option in options.get("options") or ()]
    return None


def _default(kind: Any, options: Mapping[str, Any], choices: list[Any] | None) -> Any:
    if "default" in options:
        return options["default"]
    if choices is not None:
        return choices[0] if choices else MISSING
    return _VALUES.get(kind, MISSING) if isinstance(kind, str) else MISSING
