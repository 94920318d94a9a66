"""The objects that V1 node classes are called on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class NodeObjects:
    """One for each node, kept while the node stays in the prompt, so that it can remember something."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, str], tuple[Any, tuple[str, str]]] = {}

    def begin(self, nodes: set[tuple[str, str]]) -> None:
        self._objects = {key: kept for key, kept in self._objects.items() if kept[1] in nodes}

    def get(self, node: tuple[str, str], root: tuple[str, str], create: Callable[[], Any]) -> Any:
        kept = self._objects.get(node)
        if kept is None:
            kept = self._objects[node] = (create(), root)
        return kept[0]

    def clear(self) -> None:
        self._objects.clear()
