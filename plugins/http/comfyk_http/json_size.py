"""How much a JSON text would make, told before it is made: a value takes ten to a hundred times its text in memory."""

from __future__ import annotations

import re

_STRING = re.compile(rb'"[^"]*"')
_NO_STRUCTURE = bytes(byte for byte in range(256) if byte not in b'",[{')


def holds_more_values(text: bytes | bytearray, most: int) -> bool:
    """Whether it holds more than so many values (numbers, strings, lists, objects ...), keys not counted.

    Only bytes are counted, which takes a fraction of what parsing takes; what is no JSON gets some answer.
    """
    # Each value follows a comma, or begins what holds it. In strings these bytes mean nothing: look closer if need be.
    if _begun(text, 0, len(text)) <= most:
        return False
    # Escapes first: then a quote is the end of a string. A string without structure is two quotes side by side.
    bare = text.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NO_STRUCTURE).replace(b'""', b"")
    found = end = 0
    for string in _STRING.finditer(bare):
        found += _begun(bare, end, string.start())
        end = string.end()
        if found > most:
            return True
    return found + _begun(bare, end, len(bare)) > most


def values_in(text: bytes | bytearray) -> int:
    """About how many values it holds, and no less."""
    return _begun(text, 0, len(text))


def _begun(text: bytes | bytearray, start: int, end: int) -> int:
    return text.count(b",", start, end) + text.count(b"{", start, end) + text.count(b"[", start, end)
