"""The results that a running job holds: each is kept from when a node needs it until the last such node is done."""

from __future__ import annotations

from typing import Any

from comfyk.execution.cache import CacheEntry, OutputCache
from comfyk.graph.signature import Signatures


class Results:
    """Results by node id, in front of the cache. A cache may drop what it likes: what is held here stays."""

    def __init__(self, cache: OutputCache, signatures: Signatures) -> None:
        self._cache = cache
        self._signatures = signatures
        self._entries: dict[str, CacheEntry] = {}
        self._consumers: dict[str, int] = {}
        self._sources: dict[str, set[str]] = {}

    def find(self, node_id: str) -> CacheEntry | None:
        """The node's result, held or cached."""
        entry = self._entries.get(node_id)
        if entry is None and (key := self._signatures.get(node_id)) is not None:
            entry = self._cache.get(key)
        return entry

    def hold(self, source: str, consumer: str) -> None:
        """A pending node needs this result (when it comes, or from the cache now)."""
        sources = self._sources.setdefault(consumer, set())
        if source in sources:
            return
        sources.add(source)
        self._consumers[source] = self._consumers.get(source, 0) + 1
        if (entry := self.find(source)) is not None:
            self._entries[source] = entry

    def put(self, node_id: str, entry: CacheEntry) -> None:
        self._entries[node_id] = entry

    def release(self, node_id: str) -> None:
        """A node is done: it needs nothing any more, and its own result stays only for those that wait for it."""
        for source in self._sources.pop(node_id, ()):
            self._consumers[source] -= 1
            self._drop_unneeded(source)
        self._drop_unneeded(node_id)

    def _drop_unneeded(self, node_id: str) -> None:
        if not self._consumers.get(node_id):
            self._consumers.pop(node_id, None)
            self._entries.pop(node_id, None)

    def items_of(self, node_id: str, slot: int) -> list[Any] | None:
        """The items of one output of a held result, or None when there is none."""
        entry = self._entries.get(node_id)
        if entry is None or slot >= len(entry.outputs):
            return None
        return entry.outputs[slot]

    def held(self) -> list[str]:
        return list(self._entries)
