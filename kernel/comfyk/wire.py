"""JSON as it goes over the wire and into the store: one codec, from pydantic, that is fast and strict.

NaN and infinities are not JSON: they are refused when read and written as null. A number that is too large for a
double, such as `1e999`, is JSON: it is read as an infinity, as Python's own `json` does.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic_core import from_json, to_json

from comfyk.foreign_code import is_ours, text_of

__all__ = ["dumps", "dumps_anything", "loads", "loads_anything", "text_of"]

_DEEPEST = 200
"""Levels of nesting that `dumps_anything` keeps; pydantic writes up to 254."""
_DIGITS = 4300
"""No parser here reads a number of so many."""
_BITS = 14_000
"""A number of no more has fewer digits."""
_RUN = re.compile(rb"[0-9]*")


def dumps(value: Any) -> bytes:
    """Compact JSON. What JSON has no form for is written as its text, a number of another library as that number.

    Raises ValueError for text that is not Unicode, and for what contains itself or is nested too deep.
    """
    return to_json(value, inf_nan_mode="null", fallback=_instead)


def dumps_anything(value: Any, *, surrogates: Literal["replace", "escape"] = "replace") -> bytes:
    """JSON of whatever a node or its author made, as near as possible: never raises.

    What contains itself or is nested too deep ends in `"..."`, and what cannot be read back, such as a number of
    thousands of digits, becomes a text that says what it is. Text that is not Unicode (the name of a file that is not
    UTF-8) gets question marks, or with `escape` what only escapes can carry and `loads` does not read.
    """
    try:
        written = dumps(value)
        if not _has_huge_number(written):
            return written
    except BaseException as error:  # of whatever kind: the values' own methods take part
        if is_ours(error):
            raise
    plain = _plain(value, (), surrogates == "escape")
    return json.dumps(plain, separators=(",", ":")).encode()


def loads(data: bytes | bytearray | str, *, nan: bool = False) -> Any:
    """Parse JSON. Raises ValueError with the position when it is not, or is nested too deep.

    With `nan` it takes `NaN` and `Infinity` too, as programs write them whose JSON is lax.
    """
    return from_json(data, allow_inf_nan=nan)


def loads_anything(data: bytes | str) -> Any:
    """Parse what `dumps_anything` wrote, which may be nested deeper than what clients may send."""
    try:
        return loads(data)
    except ValueError:
        return json.loads(data)


def _has_huge_number(written: bytes) -> bool:
    """Whether there is a run of so many digits. It would cover one of the places that are looked at."""
    for place in range(_DIGITS - 1, len(written), _DIGITS):
        if 48 <= written[place] <= 57:
            before = written[max(0, place - _DIGITS) : place]
            run = _RUN.match(written, place)
            digits = len(before) - len(before.rstrip(b"0123456789")) + (run.end() - place if run else 0)
            if digits >= _DIGITS:
                return True
    return False


def _instead(value: Any) -> Any:
    try:
        if getattr(value, "shape", None) == () and callable(item := getattr(value, "item", None)):
            return item()
    except BaseException as error:  # not a number of numpy or torch after all
        if is_ours(error):
            raise
    return text_of(value)


def _plain(value: Any, parents: tuple[int, ...], escape: bool) -> Any:
    try:
        return _plain_value(value, parents, escape)
    except BaseException as error:  # a mapping that cannot be read, for one
        if is_ours(error):
            raise
        return f"<{type(value).__name__}, which cannot be written: {type(error).__name__}>"


def _plain_value(value: Any, parents: tuple[int, ...], escape: bool) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        bits = int.bit_length(value)
        return int(value) if bits <= _BITS else f"<a number of {bits:,} bits>"
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
