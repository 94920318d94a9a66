"""The WebSocket clients, and which of them gets what.

Events come in on the loop; each is written once, whoever receives it, and put into the queues of its receivers. One
task per client sends what waits, so that a slow client delays nobody. When a client falls behind, of messages that
only the newest of counts (progress, previews, queue length) the older are left out; when too much waits nevertheless,
or it takes in nothing for too long, it is dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from aiohttp import ClientError, WSMsgType, web
from comfyk.events import (
    Event,
    ExecutionInterrupted,
    JobEvent,
    Preview,
    Progress,
    ProgressState,
    ProgressText,
    QueueChanged,
)
from comfyk.wire import dumps

from comfyk_http import binary

log = logging.getLogger(__name__)

BEHIND = 256
BEHIND_BYTES = 1024 * 1024
"""So many waiting messages, or bytes of them, show that a client does not keep up."""
MOST_WAITING = 20_000
"""More messages than this are never kept for a client, however small."""


class _Message:
    """What waits for one client. `data` is None once a newer message took its place."""

    __slots__ = ("data", "kind")

    def __init__(self, data: bytes, kind: WSMsgType) -> None:
        self.data: bytes | None = data
        self.kind = kind


class Client:
    """One WebSocket and what waits to be sent over it."""

    def __init__(
        self,
        id: str,
        socket: web.WebSocketResponse,
        abort: Callable[[], None],
        *,
        most_bytes: int,
        timeout: float,
    ) -> None:
        """`abort` ends the connection at once; `most_bytes` and `timeout` (seconds) are its patience."""
        self.id = id
        self.flags: Mapping[str, Any] = {}
        self._socket = socket
        self._abort = abort
        self._most_bytes = most_bytes
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Message] = deque()
        self._bytes = 0
        self._latest: dict[Hashable, _Message] = {}
        self._wake = asyncio.Event()
        self._sending_since: float | None = None
        self._closed = False
        self._task = asyncio.create_task(self._send_waiting(), name=f"send to {id}")

    def send(self, data: bytes, kind: WSMsgType = WSMsgType.TEXT, newest: Hashable | None = None) -> None:
        """Queue a message. Of those with the same `newest` only the last counts. Never blocks, never raises."""
        if self._closed:
            return
        message = _Message(data, kind)
        behind = len(self._waiting) >= BEHIND or self._bytes > BEHIND_BYTES
        if newest is not None:
            older = self._latest.get(newest)
            if behind and older is not None and older.data is not None:
                self._bytes -= len(older.data)
                older.data = None
            self._latest[newest] = message
        self._waiting.append(message)
        self._bytes += len(data)
        if behind:
            self._check()
        self._wake.set()

    def _check(self) -> None:
        """Drop the client if too much waits; not when its task just had no chance to send what came at once."""
        if len(self._waiting) > 2 * BEHIND:
            self._forget_replaced()
        since = self._sending_since
        if since is None:
            return
        if self._bytes > self._most_bytes or len(self._waiting) > MOST_WAITING:
            self.drop(f"{len(self._waiting)} messages ({self._bytes:,} bytes) wait for it")
        elif self._loop.time() - since > self._timeout:
            self.drop(f"it took in nothing for {self._timeout:g} s")

    def _forget_replaced(self) -> None:
        """Take replaced messages out once they are half of the queue, so that it cannot grow of them."""
        alive = [message for message in self._waiting if message.data is not None]
        if len(alive) <= len(self._waiting) // 2:
            self._waiting = deque(alive)

    def drop(self, reason: str) -> None:
        """End the connection of a client that does not keep up."""
        log.warning("WebSocket client %s is dropped: %s", self.id[:64], reason)
        self._closed = True
        self._waiting.clear()
        self._latest.clear()
        self._task.cancel()
        self._abort()

    async def _send_waiting(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._waiting:
                    message = self._waiting.popleft()
                    data, message.data = message.data, None
                    if data is None:
                        continue
                    self._bytes -= len(data)
                    self._sending_since = self._loop.time()
                    await self._socket.send_frame(data, message.kind)
                self._sending_since = None
                self._latest.clear()
        except (ClientError, ConnectionError, RuntimeError):
            pass  # the connection is gone; whoever reads from it takes the client out
        finally:
            self._closed = True

    async def close(self) -> None:
        """Stop sending; what still waits is not sent."""
        self._task.cancel()
        try:
            await self._task
        except asyncio.CancelledError:
            if not self._task.cancelled():
                raise

    @property
    def idle(self) -> bool:
        """Whether everything is sent that will be."""
        return self._closed or not (self._waiting or self._sending_since is not None)


class Hub:
    """All clients by id; `on_event` forwards an event to those whom it concerns."""

    def __init__(self) -> None:
        self._clients: dict[str, Client] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def add(self, client: Client) -> None:
        """From now on `client` gets what is for its id; an older connection with that id gets no more.

        The older one is not closed: a browser would connect it again at once, and two tabs with one id would
        throw each other out for ever.
        """
        self._clients[client.id] = client

    def remove(self, client: Client) -> None:
        """Forget a client, unless another connection has taken over its id."""
        if self._clients.get(client.id) is client:
            del self._clients[client.id]

    def send(self, type: str, data: Any, client_id: str | None = None) -> None:
        """Send a JSON message to one client, or to all."""
        receivers = self._receivers(client_id)
        if receivers:
            _send(receivers, dumps({"type": type, "data": data}))

    def on_event(self, event: Event) -> None:
        """Forward an event. What is about one client's job goes to that client.

        Without a client, progress and what is not about a job at all goes to everybody, as does the news that a
        job was interrupted; the other messages of the job go to nobody.
        """
        receivers = self._receivers(event.client_id)
        if not receivers or not event.type:
            return
        match event:
            case Preview():
                self._send_preview(event, receivers)
            case ProgressText():
                message = binary.progress_text(event)
                _send(receivers, message, WSMsgType.BINARY, ("text", event.job_id, event.node))
            case Progress():
                _send(receivers, _as_json(event), newest=("progress", event.job_id, event.node))
            case ProgressState():
                _send(receivers, _as_json(event), newest=("progress_state", event.job_id))
            case QueueChanged():
                _send(receivers, _as_json(event), newest="status")
            case JobEvent(client_id=None) if not isinstance(event, ExecutionInterrupted):
                pass
            case _:
                _send(receivers, _as_json(event))

    async def flush(self, seconds: float) -> None:
        """Wait until the clients have been sent everything, at most for so long."""
        end = asyncio.get_running_loop().time() + seconds
        while not all(client.idle for client in self._clients.values()):
            if asyncio.get_running_loop().time() > end:
                break
            await asyncio.sleep(0.01)

    def _receivers(self, client_id: str | None) -> list[Client]:
        if client_id is None:
            return list(self._clients.values())
        client = self._clients.get(client_id)
        return [] if client is None else [client]

    def _send_preview(self, event: Preview, receivers: Iterable[Client]) -> None:
        plain: list[Client] = []
        detailed: list[Client] = []
        for client in receivers:
            (detailed if client.flags.get("supports_preview_metadata") is True else plain).append(client)
        newest = ("preview", event.job_id, event.node.node_id)
        if plain:
            _send(plain, binary.preview(event), WSMsgType.BINARY, newest)
        if detailed:
            _send(detailed, binary.preview_with_metadata(event), WSMsgType.BINARY, newest)


def _as_json(event: Event) -> bytes:
    return dumps({"type": event.type, "data": event.data()})


def _send(
    receivers: Iterable[Client],
    data: bytes,
    kind: WSMsgType = WSMsgType.TEXT,
    newest: Hashable | None = None,
) -> None:
    for client in receivers:
        client.send(data, kind, newest)
