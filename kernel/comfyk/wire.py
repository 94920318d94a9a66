"""JSON as it goes over the wire and into the store: one codec, from pydantic, that is fast and strict.

NaN and infinities are not JSON: they are refused when read and written as null.
"""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json, to_json


def dumps(value: Any) -> bytes:
    """Compact JSON. What JSON has no form for (an array, an object of a node) is written as its `str()`."""
    return to_json(value, inf_nan_mode="null", fallback=str)


def loads(data: bytes | str) -> Any:
    """Parse JSON. Raises ValueError with the position when it is not, or is nested too deep."""
    return from_json(data, allow_inf_nan=False)
