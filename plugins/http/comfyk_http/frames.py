"""WebSocket frames (RFC 6455) as a server sends them: unmasked and whole.

aiohttp does all else of the protocol. Frames are made here so that a message is framed once for all its receivers, and
so that all that waits for a client goes out in one write: a system call costs more than the rest of a message.
"""

from __future__ import annotations

import struct

_TEXT, _BINARY = 0x81, 0x82  # with the bit that says that the message ends here
PING = b"\x89\0"
"""Asks the client for a sign of life."""


def text_frame(data: bytes) -> bytes:
    """A message of UTF-8 text."""
    return _header(_TEXT, len(data)) + data


def binary_frame(data: bytes) -> bytes:
    """A message of bytes."""
    return _header(_BINARY, len(data)) + data


def _header(kind: int, length: int) -> bytes:
    if length < 126:
        return bytes((kind, length))
    if length < 1 << 16:
        return struct.pack(">BBH", kind, 126, length)
    return struct.pack(">BBQ", kind, 127, length)
