"""Which WebSocket client gets what: events come in on the loop, and go to the clients whom they concern.

Each is written once, whoever receives it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence
from typing import Any

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
from comfyk_http.clients import Client
from comfyk_http.frames import binary_frame, text_frame


class Hub:
    """All clients by id; `on_event` forwards an event to those whom it concerns."""

    def __init__(self) -> None:
        self._clients: dict[str, Client] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def __contains__(self, client_id: str) -> bool:
        return client_id in self._clients

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
            _send(receivers, text_frame(dumps({"type": type, "data": data})))

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
                frame = binary_frame(binary.progress_text(event))
                _send(receivers, frame, newest=("text", event.job_id, event.node))
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

    def _send_preview(self, event: Preview, receivers: Sequence[Client]) -> None:
        plain: list[Client] = []
        detailed: list[Client] = []
        for client in receivers:
            (detailed if client.flags.get("supports_preview_metadata") is True else plain).append(client)
        newest = ("preview", event.job_id, event.node.node_id)
        if plain:
            _send(plain, binary_frame(binary.preview(event)), newest)
        if detailed:
            _send(detailed, binary_frame(binary.preview_with_metadata(event)), newest)


def _as_json(event: Event) -> bytes:
    return text_frame(dumps({"type": event.type, "data": event.data()}))


def _send(receivers: Sequence[Client], frame: bytes, newest: Hashable | None = None) -> None:
    for client in receivers:
        client.send(frame, newest, len(receivers))
