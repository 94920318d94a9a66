"""Unfolds dynamic inputs for the values of a prompt, and nests those values for the node.

A prompt is flat: `{"size": "by width", "size.width": 512, "images.image0": ["4", 0]}`. The node gets
`size={"size": "by width", "width": 512}, images={"image0": <image>}`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from comfyk.io.dynamic import Autogrow, DynamicCombo, DynamicSlot

Spec = tuple[Any, ...]
Groups = Mapping[str, Mapping[str, Spec]]


class Expansion:
    """The inputs that a node has for certain values."""

    __slots__ = ("empty", "inputs", "paths")

    def __init__(self) -> None:
        self.inputs: dict[str, tuple[bool, Spec]] = {}
        """Full name -> (is it required, its `(type, options)`)."""
        self.paths: dict[str, str] = {}
        """Full name -> where its value goes in the nested arguments, with dots between the steps."""
        self.empty: set[str] = set()
        """Names that become an empty dict when there is no value for them."""

    def add(self, name: str, required: bool, spec: Spec, path: str | None = None) -> None:
        self.inputs[name] = (required, spec)
        if path is not None:
            self.paths[name] = path


_Unfold = Callable[[Expansion, Mapping[str, Any], str, bool, Spec], None]


def expand(types: Groups, values: Mapping[str, Any]) -> Expansion:
    """The inputs of a schema for these prompt values.

    A dynamic combo that is required is always among them, so that a missing or unknown choice can be told. Of
    an autogrow, those inputs are that are required or have a value.
    """
    result = Expansion()
    _expand_groups(result, types, values, "")
    return result


def is_dynamic(types: Groups) -> bool:
    """Whether a schema has inputs that unfold."""
    return any(
        isinstance(spec[0], str) and spec[0] in _UNFOLD
        for group in ("required", "optional")
        for spec in types.get(group, {}).values()
    )


def nest(values: Mapping[str, Any], paths: Mapping[str, str], empty: set[str]) -> dict[str, Any]:
    """Flat values as a node receives them. A path without a value becomes None, or `{}` if in `empty`."""
    result = {name: value for name, value in values.items() if name not in paths}
    for name, path in paths.items():
        *parents, last = path.split(".")
        inside = result
        for step in parents:
            inside = inside.setdefault(step, {})
        value = values.get(name)
        inside[last] = {} if value is None and name in empty else value
    return result


def _expand_groups(result: Expansion, groups: Groups, values: Mapping[str, Any], prefix: str) -> None:
    for group in ("required", "optional"):
        for name, spec in groups.get(group, {}).items():
            full = prefix + name
            unfold = _UNFOLD.get(spec[0]) if isinstance(spec[0], str) else None
            if unfold is None:
                result.add(full, group == "required", spec, full if prefix else None)
            else:
                unfold(result, values, full, group == "required", spec)


def _own_path(full: str) -> str:
    """A choice lies inside the dict that it opens, under its own last name."""
    return f"{full}.{full.rpartition('.')[2]}"


def _autogrow(result: Expansion, values: Mapping[str, Any], full: str, required: bool, spec: Spec) -> None:
    template = spec[1]["template"]
    names = template.get("names") or [f"{template['prefix']}{i}" for i in range(template["max"])]
    inner_required = bool(template["input"].get("required"))
    inner = next(iter(template["input"]["required" if inner_required else "optional"].values()))
    used = False
    for i, name in enumerate(names):
        inner_name = f"{full}.{name}"
        needed = inner_required and i < template["min"]
        if inner_name in values:
            result.add(inner_name, needed, inner, inner_name)
            used = True
        elif needed:
            result.add(inner_name, True, inner)
    if not used:
        result.paths[full] = full
        result.empty.add(full)


def _dynamic_combo(
    result: Expansion, values: Mapping[str, Any], full: str, required: bool, spec: Spec
) -> None:
    if full not in values:
        if required:
            result.add(full, True, spec)
        return
    result.add(full, required, spec, _own_path(full))
    for option in spec[1]["options"]:
        if option["key"] == values[full]:
            _expand_groups(result, option["inputs"], values, f"{full}.")
            return


def _dynamic_slot(
    result: Expansion, values: Mapping[str, Any], full: str, required: bool, spec: Spec
) -> None:
    if full not in values:
        return
    options = dict(spec[1])
    result.add(full, required, (options.get("slotType", "*"), options), _own_path(full))
    _expand_groups(result, options["inputs"], values, f"{full}.")


_UNFOLD: dict[str, _Unfold] = {
    Autogrow.io_type: _autogrow,
    DynamicCombo.io_type: _dynamic_combo,
    DynamicSlot.io_type: _dynamic_slot,
}
