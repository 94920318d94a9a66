"""Caches of node results, by signature.

- classic: keeps what the latest prompt used;
- LRU: keeps the n results used last;
- none: keeps nothing;
- RAM pressure: keeps everything while enough memory is free, then drops what is old and large first.

Within a job the results that a waiting node needs are held by the job itself, whatever a cache drops.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psutil

from comfyk.graph.signature import Key

GIB = 1 << 30
# What an entry counts at least, so that small ones are not kept for ever.
_MINIMUM_BYTES = 64 << 10
# How much more readily an entry goes with each prompt that did not use it.
_AGE_FACTOR = 1.3
# Asking the system how much memory is free takes tens of microseconds: not after every node.
_CHECK_INTERVAL_S = 0.05


@dataclass(slots=True)
class CacheEntry:
    """The result of a node."""

    outputs: list[list[Any]]
    """For each output the list of its items; one item unless lists are mapped."""
    ui: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Scope:
    """Where an entry comes from: the subgraph of a node, and the node of the client's prompt behind it."""

    parent: tuple[str, str]
    """(node id, class) of the node that expanded."""
    root: tuple[str, str]


class OutputCache(ABC):
    """What the executor asks of a cache. All calls come from the executor's thread."""

    @abstractmethod
    def begin(self, keys: set[Key], nodes: set[tuple[str, str]]) -> None:
        """A prompt with these signatures and (node id, class) pairs starts."""

    @abstractmethod
    def get(self, key: Key) -> CacheEntry | None: ...

    @abstractmethod
    def put(self, key: Key, entry: CacheEntry, scope: Scope | None) -> None:
        """Keep a result; `scope` is None for nodes of the client's prompt."""

    def expanded(self, scope: Scope, keys: set[Key]) -> None:  # noqa: B027
        """A node expanded to nodes with these signatures; what it expanded to before is out of date."""

    def relieve(self) -> None:  # noqa: B027
        """Called after each node: drop what must go for want of memory."""

    @abstractmethod
    def clear(self) -> int:
        """Drop everything; returns how many results that were."""


class NullCache(OutputCache):
    """Keeps nothing."""

    def begin(self, keys: set[Key], nodes: set[tuple[str, str]]) -> None:
        pass

    def get(self, key: Key) -> CacheEntry | None:
        return None

    def put(self, key: Key, entry: CacheEntry, scope: Scope | None) -> None:
        pass

    def clear(self) -> int:
        return 0


class ClassicCache(OutputCache):
    """Keeps the results that the latest prompt used, those of its subgraphs included."""

    def __init__(self) -> None:
        self._entries: dict[Key, CacheEntry] = {}
        self._scopes: dict[Scope, set[Key]] = {}

    def begin(self, keys: set[Key], nodes: set[tuple[str, str]]) -> None:
        keep = set(keys)
        for scope, members in list(self._scopes.items()):
            if scope.root in nodes:
                keep |= members
            else:
                del self._scopes[scope]
        for key in [key for key in self._entries if key not in keep]:
            del self._entries[key]

    def get(self, key: Key) -> CacheEntry | None:
        return self._entries.get(key)

    def put(self, key: Key, entry: CacheEntry, scope: Scope | None) -> None:
        self._entries[key] = entry
        if scope is not None:
            self._scopes.setdefault(scope, set()).add(key)

    def expanded(self, scope: Scope, keys: set[Key]) -> None:
        for key in self._scopes.get(scope, set()) - keys:
            self._entries.pop(key, None)
        self._scopes[scope] = keys & self._entries.keys()

    def clear(self) -> int:
        count = len(self._entries)
        self._entries.clear()
        self._scopes.clear()
        return count


@dataclass(slots=True)
class _Used:
    entry: CacheEntry
    generation: int
    """The prompt that used it last."""
    bytes: int = 0


class LruCache(OutputCache):
    """Keeps the `size` results used last; those that the running prompt uses are not counted out."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._generation = 0
        self._entries: dict[Key, _Used] = {}

    def begin(self, keys: set[Key], nodes: set[tuple[str, str]]) -> None:
        self._generation += 1
        for key in keys:
            self.get(key)
        self._shrink()

    def get(self, key: Key) -> CacheEntry | None:
        used = self._entries.pop(key, None)
        if used is None:
            return None
        used.generation = self._generation
        self._entries[key] = used  # last in the dict: used last
        return used.entry

    def put(self, key: Key, entry: CacheEntry, scope: Scope | None) -> None:
        self._entries.pop(key, None)
        self._entries[key] = _Used(entry, self._generation)
        self._shrink()

    def _shrink(self) -> None:
        while len(self._entries) > self._size:
            oldest = next(iter(self._entries))
            if self._entries[oldest].generation == self._generation:
                return
            del self._entries[oldest]

    def clear(self) -> int:
        count = len(self._entries)
        self._entries.clear()
        return count


def _available_bytes() -> int:
    return psutil.virtual_memory().available


@dataclass
class RamPressureCache(OutputCache):
    """Keeps results while memory is free.

    When less than `inactive_headroom` bytes are available, results that the running prompt does not use go, and
    when less than `headroom` are, its own too: old and large ones first.
    """

    headroom: int
    inactive_headroom: int
    available: Callable[[], int] = _available_bytes
    check_interval_s: float = _CHECK_INTERVAL_S
    _generation: int = 0
    _entries: dict[Key, _Used] = field(default_factory=dict)
    _next_check: float = 0.0
    _new_bytes: int = 0

    def begin(self, keys: set[Key], nodes: set[tuple[str, str]]) -> None:
        self._generation += 1
        for key in keys:
            self.get(key)
        self._next_check = 0.0

    def get(self, key: Key) -> CacheEntry | None:
        used = self._entries.get(key)
        if used is None:
            return None
        used.generation = self._generation
        return used.entry

    def put(self, key: Key, entry: CacheEntry, scope: Scope | None) -> None:
        size = max(size_of(entry.outputs), _MINIMUM_BYTES)
        self._new_bytes += size
        self._entries[key] = _Used(entry, self._generation, size)

    def relieve(self) -> None:
        now = time.monotonic()
        if now < self._next_check and self._new_bytes < GIB // 16:
            return
        self._next_check = now + self.check_interval_s
        self._new_bytes = 0
        if self.available() < self.inactive_headroom:
            self._release(self.inactive_headroom, self._generation - 1)
        if self.available() < self.headroom:
            self._release(self.headroom, self._generation)

    def _release(self, target: int, newest_generation: int) -> None:
        def weight(key: Key) -> float:
            used = self._entries[key]
            return used.bytes * _AGE_FACTOR ** min(self._generation - used.generation, 1000)

        candidates = [key for key, used in self._entries.items() if used.generation <= newest_generation]
        missing = target - self.available()
        for key in sorted(candidates, key=weight, reverse=True):
            if missing <= 0:
                missing = target - self.available()
                if missing <= 0:
                    return
            missing -= self._entries.pop(key).bytes

    def clear(self) -> int:
        count = len(self._entries)
        self._entries.clear()
        return count


def size_of(value: Any) -> int:
    """The bytes in the arrays (anything with `nbytes`) among nested lists and dicts."""
    total = 0
    stack: list[Any] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, (list, tuple)):
            stack.extend(item)
        elif isinstance(item, dict):
            stack.extend(item.values())
        else:
            size = getattr(item, "nbytes", 0)
            if isinstance(size, int):
                total += size
    return total


class NodeObjects:
    """The objects that V1 node classes are called on, kept while their node stays in the prompt."""

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
