"""JSON as it goes over the wire and into the store: one codec, from pydantic, that is fast and strict.

NaN and infinities are not JSON: they are refused when read and written as null.
"""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json, to_json

__all__ = ["dumps", "loads", "text_of"]


def dumps(value: Any) -> bytes:
    """Compact JSON. What JSON has no form for (an array, an object of a node) is written as its text."""
    return to_json(value, inf_nan_mode="null", fallback=text_of)


def text_of(value: Any) -> str:
    """`str(value)`, also for objects whose author got that wrong."""
    try:
        return str(value)
    except Exception as error:
        return f"<{type(value).__name__}, whose text cannot be had: {type(error).__name__}>"


def loads(data: bytes | str) -> Any:
    """Parse JSON. Raises ValueError with the position when it is not, or is nested too deep."""
    return from_json(data, allow_inf_nan=False)
