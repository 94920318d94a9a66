"""The results that a running job holds: each is kept from when a node needs it until the last such node is done."""

from __future__ import annotations

from typing import Any

from comfyk.execution import shown_files
from comfyk.execution.cache import CacheEntry, OutputCache
from comfyk.graph.signature import Key, Signatures


class Results:
    """Results by node id, in front of the cache. A cache may drop what it likes: what is held here stays."""

    def __init__(self, cache: OutputCache, signatures: Signatures) -> None:
        self._cache = cache
        self._signatures = signatures
        self._entries: dict[str, CacheEntry] = {}
        self._consumers: dict[str, int] = {}
        self._sources: dict[str, set[str]] = {}
        self._stale: dict[Key, bool] = {}
        """Of cached results that showed files, whether one was gone when the job first looked."""

    def find(self, node_id: str) -> CacheEntry | None:
        """The node's result, held or cached. One whose files somebody has deleted counts as none."""
        entry = self._entries.get(node_id)
        if entry is None and (key := self._signatures.get(node_id)) is not None:
            entry = self._cache.get(key)
            if entry is not None and entry.ui is not None:
                # Once for a job: a node is not to lose its result while others count on it.
                if key not in self._stale:
                    self._stale[key] = not shown_files.are_there(entry.ui)
                if self._stale[key]:
                    return None
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
        if (key := self._signatures.get(node_id)) is not None:
            self._stale.pop(key, None)

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
