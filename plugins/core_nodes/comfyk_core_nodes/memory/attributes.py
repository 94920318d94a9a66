"""Reading and replacing what is deep inside a model, by dotted names."""

from __future__ import annotations

from typing import Any

from torch import nn

_ABSENT: Any = object()


def get_attribute(root: Any, name: str) -> Any:
    """`root.a.b` for `a.b`; numbers index into ModuleLists. Raises AttributeError."""
    for part in name.split("."):
        root = getattr(root, part)
    return root


def _parent(root: Any, name: str) -> tuple[Any, str]:
    path, _, last = name.rpartition(".")
    return (get_attribute(root, path) if path else root), last


def own_attribute(root: Any, name: str) -> Any:
    """What stands at `name` in the object itself, to be given to `put_attribute` later.

    Raises AttributeError when there is nothing, not even from its class.
    """
    parent, last = _parent(root, name)
    value = getattr(parent, last)
    return value if _is_own(parent, last) else _ABSENT


def put_attribute(root: Any, name: str, value: Any) -> None:
    """Set `name` to `value`, whatever kind of thing it was before. Raises AttributeError for a wrong path."""
    parent, last = _parent(root, name)
    if value is _ABSENT:
        if _is_own(parent, last):
            delattr(parent, last)
        return
    # A module does not take another kind of object in place of a submodule: that has to go first. What stays the
    # same kind is replaced in place, which keeps the order of the submodules.
    other_kind = isinstance(parent, nn.Module) and isinstance(value, nn.Module) != (last in parent._modules)
    if other_kind and _is_own(parent, last):
        delattr(parent, last)
    setattr(parent, last, value)


def is_absent(value: Any) -> bool:
    """Whether this is what `own_attribute` gives where the object itself has nothing."""
    return value is _ABSENT


def _is_own(parent: Any, name: str) -> bool:
    if isinstance(parent, nn.Module) and any(
        name in held for held in (parent._parameters, parent._buffers, parent._modules)
    ):
        return True
    return name in getattr(parent, "__dict__", ())
