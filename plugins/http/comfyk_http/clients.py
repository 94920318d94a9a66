"""A WebSocket client, and what waits to be sent to it.

Sending only queues; what came together goes out together, in the next turn of the loop. So a slow client delays
nobody. When a client falls behind, of messages that only the newest of counts (progress, previews, queue length) the
older are left out; when too much waits nevertheless, or it takes in nothing for too long, it is dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Hashable, Mapping
from typing import Any

log = logging.getLogger(__name__)

BEHIND = 256
BEHIND_BYTES = 1024 * 1024
"""So many waiting messages, or bytes of them, show that a client does not keep up."""
MOST_WAITING = 20_000
"""More messages than this are never kept for a client, however small."""

_FULL = 64 * 1024
"""So many bytes in the transport: it is not given more until they have left."""
_AT_ONCE = 256 * 1024
_PATIENCE = 0.002
"""Seconds that a message which need not go out at once waits for others to go with."""
_RETRY = 0.02, 0.25
"""Seconds until a full transport is looked at again: at first, and at most."""


class _Message:
    """A frame that waits for one client; None once a newer message took its place."""

    __slots__ = ("frame",)

    def __init__(self, frame: bytes) -> None:
        self.frame: bytes | None = frame


class Client:
    """One WebSocket connection. `flags` are the feature flags that the client announced."""

    def __init__(
        self, id: str, transport: asyncio.WriteTransport, *, most_bytes: int, timeout: float
    ) -> None:
        """`most_bytes` that may wait and `timeout` (seconds) are what is put up with."""
        self.id = id
        self.user: str | None = None
        """Whose it is, in multi-user mode, if it said so."""
        self.poster: str | None = None
        """In multi-user mode: who queued prompts for it, if it did not say whose it is, as browsers cannot."""
        self.address: str | None = None
        self.flags: Mapping[str, Any] = {}
        self._transport = transport
        self._most_bytes = most_bytes
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Message] = deque()
        self._bytes = 0
        self._latest: dict[Hashable, _Message] = {}
        self._next_write: asyncio.Handle | None = None
        self._in_no_hurry = False
        """Whether the next write waits for more to send."""
        self._full_since: float | None = None
        self._retry = _RETRY[0]
        self._closed = False

    @property
    def idle(self) -> bool:
        """Whether everything is sent that will be."""
        return self._closed or not self._waiting

    def send(self, frame: bytes, newest: Hashable | None = None, *, patient: bool = False) -> None:
        """Queue a frame. Never blocks, never raises.

        Of frames with the same `newest` only the last counts, once the client is behind. A `patient` frame goes out
        with what comes in the next moment, and takes the place of one like it that still waits.
        """
        if self._closed:
            return
        message = _Message(frame)
        behind = len(self._waiting) >= BEHIND or self._bytes > BEHIND_BYTES
        if newest is not None:
            older = self._latest.get(newest)
            if (behind or patient) and older is not None and older.frame is not None:
                self._bytes -= len(older.frame)
                older.frame = None
            self._latest[newest] = message
        self._waiting.append(message)
        self._bytes += len(frame)
        if behind:
            self._check()
        if self._next_write is None:
            if patient:
                self._next_write = self._loop.call_later(_PATIENCE, self._write)
            else:
                self._next_write = self._loop.call_soon(self._write)
            self._in_no_hurry = patient
        elif self._in_no_hurry and not patient:
            self._next_write.cancel()
            self._next_write = self._loop.call_soon(self._write)
            self._in_no_hurry = False

    def close(self) -> None:
        """Send no more; what still waits is not sent."""
        self._closed = True
        self._waiting.clear()
        self._latest.clear()
        if self._next_write is not None:
            self._next_write.cancel()

    def drop(self, reason: str) -> None:
        """End the connection at once, and say why."""
        if self._closed:
            return
        log.warning("WebSocket client %r is dropped: %s", self.id[:64], reason)
        self.close()
        self._transport.abort()

    def _check(self) -> None:
        """Drop the client if too much waits; not when it just had no chance to get what came at once."""
        if len(self._waiting) > 2 * BEHIND:
            self._forget_replaced()
        if self._full_since is not None and (
            self._bytes > self._most_bytes or len(self._waiting) > MOST_WAITING
        ):
            self.drop(f"{len(self._waiting)} messages ({self._bytes:,} bytes) wait for it")

    def _forget_replaced(self) -> None:
        """Take replaced messages out once they are half of the queue, so that it cannot grow of them."""
        alive = [message for message in self._waiting if message.frame is not None]
        if len(alive) <= len(self._waiting) // 2:
            self._waiting = deque(alive)

    def _write(self) -> None:
        """Hand what waits to the transport, unless that is full; then look again later."""
        self._next_write, self._in_no_hurry = None, False
        if self._transport.is_closing():
            self.close()
            return
        if self._transport.get_write_buffer_size() > _FULL:
            self._wait()
            return
        self._full_since, self._retry = None, _RETRY[0]
        frames, length = [], 0
        while self._waiting and length < _AT_ONCE:
            message = self._waiting.popleft()
            frame, message.frame = message.frame, None
            if frame is not None:
                frames.append(frame)
                length += len(frame)
        self._bytes -= length
        self._transport.write(b"".join(frames))
        if self._waiting:
            self._next_write = self._loop.call_soon(self._write)
        else:
            self._latest.clear()

    def _wait(self) -> None:
        now = self._loop.time()
        if self._full_since is None:
            self._full_since = now
        elif now - self._full_since > self._timeout:
            self.drop(f"it took in nothing for {self._timeout:g} s")
            return
        self._next_write = self._loop.call_later(self._retry, self._write)
        self._retry = min(self._retry * 2, _RETRY[1])
