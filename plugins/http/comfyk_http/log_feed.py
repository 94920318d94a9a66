"""Sends new lines of the log to the WebSocket clients that asked for them."""

from __future__ import annotations

import shutil
from typing import Any

from comfyk import App
from comfyk.events import Message

from comfyk_http.hub import Hub
from comfyk_http.server_log import SERVER_LOG, Entry

_MOST = 1000
"""Entries that wait to be sent; a flood of output loses its beginning."""


class LogFeed:
    """The subscribers of one server. What is logged within one turn of the loop goes out as one message."""

    def __init__(self, app: App, hub: Hub) -> None:
        self._app = app
        self._hub = hub
        self._subscribers: set[str] = set()
        self._waiting: list[Entry] = []
        self._scheduled = False
        self._deafen = SERVER_LOG.listen(self._hear)

    async def stop(self, _: object = None) -> None:
        """Hear no more."""
        self._deafen()

    def subscribe(self, client_id: str, enabled: bool) -> None:
        """Send to this client from now on, or no longer. One that is not connected gets nothing."""
        if enabled and client_id in self._hub:
            self._subscribers.add(client_id)
        else:
            self._subscribers.discard(client_id)

    def _hear(self, entry: Entry) -> None:
        """Called in any thread."""
        if not self._subscribers or len(self._waiting) >= _MOST:
            return
        self._waiting.append(entry)
        if not self._scheduled:
            self._scheduled = True
            self._app.events.call(self._send)

    def _send(self) -> None:
        self._scheduled = False
        entries, self._waiting = self._waiting, []
        self._subscribers = {client_id for client_id in self._subscribers if client_id in self._hub}
        for client_id in self._subscribers:
            content = {"entries": entries, "size": terminal_size()}
            self._app.events.emit(Message(client_id=client_id, message_type="logs", content=content))


def terminal_size() -> dict[str, Any]:
    """How wide the log may be shown."""
    size = shutil.get_terminal_size()
    return {"cols": size.columns, "rows": size.lines}
