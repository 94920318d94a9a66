"""JSON as it goes over the wire and into the store: one codec, from pydantic, that is fast and strict.

NaN and infinities are not JSON: they are refused when read and written as null. A number that is too large for a
double, such as `1e999`, is JSON: it is read as an infinity, as Python's own `json` does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic_core import from_json, to_json

__all__ = ["dumps", "dumps_anything", "loads", "loads_anything", "text_of"]

_DEEPEST = 200
"""Levels of nesting that `dumps_anything` keeps; pydantic writes up to 254."""


def dumps(value: Any) -> bytes:
    """Compact JSON. What JSON has no form for is written as its text, a number of another library as that number.

    Raises ValueError for text that is not Unicode, and for what contains itself or is nested too deep.
    """
    return to_json(value, inf_nan_mode="null", fallback=_instead)


def dumps_anything(value: Any, *, surrogates: Literal["replace", "escape"] = "replace") -> bytes:
    """JSON of whatever a node or its author made, as near as possible: never raises.

    What contains itself or is nested too deep ends in `"..."`. Text that is not Unicode (the name of a file that is not
    UTF-8) gets question marks, or with `escape` what only escapes can carry and `loads` does not read.
    """
    try:
        return dumps(value)
    except Exception:  # of whatever kind: the values' own methods take part
        plain = _plain(value, (), surrogates == "escape")
        return json.dumps(plain, separators=(",", ":")).encode()


def loads(data: bytes | str) -> Any:
    """Parse JSON. Raises ValueError with the position when it is not, or is nested too deep."""
    return from_json(data, allow_inf_nan=False)


def loads_anything(data: bytes | str) -> Any:
    """Parse what `dumps_anything` wrote, which may be nested deeper than what clients may send."""
    try:
        return loads(data)
    except ValueError:
        return json.loads(data)


def text_of(value: Any) -> str:
    """`str(value)`, also for objects whose author got that wrong."""
    try:
        return str(value)
    except Exception as error:
        return f"<{type(value).__name__}, whose text cannot be had: {type(error).__name__}>"


def _instead(value: Any) -> Any:
    try:
        if getattr(value, "shape", None) == () and callable(item := getattr(value, "item", None)):
            return item()
    except Exception:  # not a number of numpy or torch after all
        return text_of(value)
    return text_of(value)


def _plain(value: Any, parents: tuple[int, ...], escape: bool) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str):
        return _text(value, escape)
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        if id(value) in parents or len(parents) == _DEEPEST:
            return "..."
        parents = (*parents, id(value))
        if isinstance(value, Mapping):
            return {_text(key, escape): _plain(item, parents, escape) for key, item in value.items()}
        return [_plain(item, parents, escape) for item in value]
    instead = _instead(value)
    if isinstance(instead, str) or len(parents) == _DEEPEST:
        return _text(instead, escape)
    return _plain(instead, (*parents, id(value)), escape)


def _text(value: Any, escape: bool) -> str:
    text = str.__str__(value) if isinstance(value, str) else text_of(value)
    return text if escape else text.encode("utf-8", "replace").decode("utf-8")
