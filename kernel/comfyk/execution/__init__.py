"""Running a graph: node calls, list mapping, async nodes, caches, progress and interruption."""

from typing import TYPE_CHECKING, Any

from comfyk.execution.cache import (
    CacheEntry,
    ClassicCache,
    LruCache,
    NullCache,
    OutputCache,
    RamPressureCache,
    Scope,
    size_of,
)

if TYPE_CHECKING:
    from comfyk.execution.executor import ThreadExecutor

__all__ = [
    "CacheEntry",
    "ClassicCache",
    "LruCache",
    "NullCache",
    "OutputCache",
    "RamPressureCache",
    "Scope",
    "ThreadExecutor",
    "size_of",
]


def __getattr__(name: str) -> Any:
    if name != "ThreadExecutor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from comfyk.execution.executor import ThreadExecutor

    return ThreadExecutor
