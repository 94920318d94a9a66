"""Running a graph: node calls, list mapping, async nodes, caches, progress and interruption."""

from comfyk.execution.cache import CacheEntry, OutputCache, Scope, size_of

__all__ = ["CacheEntry", "OutputCache", "Scope", "size_of"]
