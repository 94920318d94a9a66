"""How a prompt says that an input comes from another node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

Prompt = dict[str, dict[str, Any]]
"""Node id -> `{"class_type": str, "inputs": {name: constant or link}}`."""

Link = list[Any]
"""`[node_id, output_index]`."""

_WRAPPER = "__value__"


def is_link(value: Any) -> TypeGuard[Link]:
    """Whether an input's value is a link rather than a constant."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], (int, float))
        and not isinstance(value[1], bool)
    )


def unwrap(value: Any) -> Any:
    """The constant behind `{"__value__": constant}`, in which clients send lists that are not links."""
    if isinstance(value, dict) and _WRAPPER in value:
        return value[_WRAPPER]
    return value


def links(inputs: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """The links among a node's inputs, as (input name, node id, output index)."""
    for name, value in inputs.items():
        if is_link(value):
            yield name, value[0], int(value[1])
