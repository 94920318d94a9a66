"""What several plugins or packs say of one thing, put together."""

from __future__ import annotations

from typing import Any


def merged(first: Any, second: Any) -> Any:
    """Objects are merged, lists put together; of anything else the second stays."""
    if isinstance(first, dict) and isinstance(second, dict):
        return {**first, **{key: merged(first.get(key), value) for key, value in second.items()}}
    if isinstance(first, list) and isinstance(second, list):
        return [*first, *second]
    return second
