"""Caches of node results, by signature.

- classic: keeps what the latest prompt used;
- LRU: keeps the n results used last;
- none: keeps nothing;
- RAM pressure: as classic, and when memory runs short drops what is old and large first; it can keep more.

Within a job the results that a waiting node needs are held by the job itself, whatever a cache drops.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from comfyk.graph.signature import Key

GIB = 1 << 30
# What an entry counts at least, so that small ones are not kept for ever.
_MINIMUM_BYTES = 64 << 10
# How much more readily an entry goes with each prompt that did not use it.
_AGE_FACTOR = 1.3
# Asking the system how much memory is free takes tens of microseconds: not after every node.
_CHECK_INTERVAL_S = 0.05
# But at once after so many new bytes.
_LARGE_BYTES = 64 << 20


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


class _Scopes:
    """Which entries come from which subgraph."""

    def __init__(self) -> None:
        self._members: dict[Scope, set[Key]] = {}

    def add(self, scope: Scope | None, key: Key) -> None:
        if scope is not None:
            self._members.setdefault(scope, set()).add(key)

    def begin(self, nodes: set[tuple[str, str]]) -> set[Key]:
        """Forget the subgraphs of nodes that are gone; returns the entries of all others."""
        self._members = {scope: keys for scope, keys in self._members.items() if scope.root in nodes}
        return set().union(*self._members.values())

    def replace(self, scope: Scope, keys: set[Key]) -> set[Key]:
        """A subgraph has these entries now; returns those that it had and has no more."""
        before = self._members.get(scope, set())
        self._members[scope] = before & keys
        return before - keys

    def clear(self) -> None:
        self._members.clear()


class ClassicCache(OutputCache):
    """Keeps the results that the latest prompt used, those of its subgraphs included."""

    def __init__(self) -> None:
        self._entries: dict[Key, CacheEntry] = {}
        self._scopes = _Scopes()

    def begin(self, keys: set[Key], nodes: set[tuple[str, str]]) -> None:
        keep = keys | self._scopes.begin(nodes)
        self._entries = {key: entry for key, entry in self._entries.items() if key in keep}

    def get(self, key: Key) -> CacheEntry | None:
        return self._entries.get(key)

    def put(self, key: Key, entry: CacheEntry, scope: Scope | None) -> None:
        self._entries[key] = entry
        self._scopes.add(scope, key)

    def expanded(self, scope: Scope, keys: set[Key]) -> None:
        for key in self._scopes.replace(scope, keys):
            self._entries.pop(key, None)

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
    import psutil

    return psutil.virtual_memory().available


class RamPressureCache(OutputCache):
    """Keeps results while memory is free.

    When less than `headroom` bytes are available, results go, old and large ones first. Those that the latest prompt
    does not use go when it starts, as in the classic cache, unless `inactive_headroom` is given: then they stay until
    less than so many bytes are available.
    """

    def __init__(
        self,
        headroom: int,
        inactive_headroom: int | None = None,
        *,
        available: Callable[[], int] = _available_bytes,
        check_interval_s: float = _CHECK_INTERVAL_S,
    ) -> None:
        self._headroom = headroom
        self._inactive_headroom = inactive_headroom
        self._available = available
        self._check_interval_s = check_interval_s
        self._generation = 0
        self._entries: dict[Key, _Used] = {}
        self._scopes = _Scopes()
        self._next_check = 0.0
        self._new_bytes = 0

    def begin(self, keys: set[Key], nodes: set[tuple[str, str]]) -> None:
        self._generation += 1
        kept = self._scopes.begin(nodes)
        if self._inactive_headroom is None:
            keep = keys | kept
            self._entries = {key: used for key, used in self._entries.items() if key in keep}
        for key in keys:
            self.get(key)

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
        self._scopes.add(scope, key)

    def expanded(self, scope: Scope, keys: set[Key]) -> None:
        gone = self._scopes.replace(scope, keys)
        if self._inactive_headroom is None:
            for key in gone:
                self._entries.pop(key, None)

    def relieve(self) -> None:
        now = time.monotonic()
        if now < self._next_check and self._new_bytes < _LARGE_BYTES:
            return
        self._next_check = now + self._check_interval_s
        self._new_bytes = 0
        available = self._available()
        if self._inactive_headroom is not None and available < self._inactive_headroom:
            available = self._release(self._inactive_headroom, available, self._generation - 1)
        if available < self._headroom:
            self._release(self._headroom, available, self._generation)

    def _release(self, target: int, available: int, newest_generation: int) -> int:
        """Drop entries no newer than that until `target` bytes are available; returns how many are."""

        def weight(key: Key) -> float:
            used = self._entries[key]
            return used.bytes * _AGE_FACTOR ** min(self._generation - used.generation, 1000)

        candidates = [key for key, used in self._entries.items() if used.generation <= newest_generation]
        for key in sorted(candidates, key=weight, reverse=True):
            if available >= target:
                # What was dropped may be held elsewhere: look before believing it.
                available = self._available()
                if available >= target:
                    break
            available += self._entries.pop(key).bytes
        return self._available()

    def clear(self) -> int:
        count = len(self._entries)
        self._entries.clear()
        self._scopes.clear()
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
