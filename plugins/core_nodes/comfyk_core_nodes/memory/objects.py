"""Reading and replacing what is deep inside a model, by dotted names: patches of objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


class ObjectPatches:
    """What stands in a model in place of something else, and what it took the place of."""

    def __init__(self) -> None:
        self.patches: dict[str, Any] = {}
        self._before: dict[str, Any] = {}

    def before(self, name: str) -> Any | None:
        """What stood in the object itself at `name`; None when nothing did, or when nothing is replaced there."""
        before = self._before.get(name)
        return None if before is _ABSENT else before

    def replace(self, root: Any, patches: Mapping[str, Any], about_to: Callable[[str], Any]) -> None:
        """Put these objects at these dotted names, and back what was at others.

        `about_to` is called with each name before what stands there goes. Raises AttributeError for a name of
        nothing; then no patch is left.
        """
        same = self.patches.keys() == patches.keys()
        if same and all(self.patches[name] is patches[name] for name in patches):
            return
        self._restore(root, about_to)
        try:
            for name, value in patches.items():
                before = _own(root, name)
                about_to(name)
                _put(root, name, value)
                self._before[name] = before
                self.patches[name] = value
        except BaseException:
            self._restore(root, about_to)
            raise

    def _restore(self, root: Any, about_to: Callable[[str], Any]) -> None:
        for name in reversed(list(self.patches)):
            about_to(name)
            _put(root, name, self._before.pop(name))
            del self.patches[name]


def _own(root: Any, name: str) -> Any:
    parent, last = _parent(root, name)
    value = getattr(parent, last)
    return value if _is_own(parent, last) else _ABSENT


def _put(root: Any, name: str, value: Any) -> None:
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


def _is_own(parent: Any, name: str) -> bool:
    if isinstance(parent, nn.Module) and any(
        name in held for held in (parent._parameters, parent._buffers, parent._modules)
    ):
        return True
    return name in getattr(parent, "__dict__", ())
