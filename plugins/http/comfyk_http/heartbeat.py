"""Whether the other end of a WebSocket is still there: whoever is silent is asked, and dropped without an answer."""

from __future__ import annotations

from collections.abc import Callable

from comfyk_http.clients import Client
from comfyk_http.connections import Connection
from comfyk_http.frames import PING

_QUESTIONS = 4
"""So often a silent client is asked before its time is up."""


class Heartbeat:
    """Looks after one client; called about once a second."""

    def __init__(
        self,
        client: Client,
        connection: Connection,
        timeout: float,
        is_let_in: Callable[[], bool],
        send_away: Callable[[], None],
    ) -> None:
        """`is_let_in` says whether what let the client in, such as a token, still does; else it is sent away."""
        self._client = client
        self._connection = connection
        self._pause = timeout / _QUESTIONS
        self._timeout = timeout
        self._is_let_in = is_let_in
        self._send_away = send_away
        self._received = -1
        self._silent_since = 0.0
        self._asked = 0

    def __call__(self, now: float) -> None:
        if not self._is_let_in():
            self._connection.tick = None
            self._send_away()
            return
        if self._connection.received != self._received:
            self._received, self._silent_since, self._asked = self._connection.received, now, 0
        silent = now - self._silent_since
        if silent > self._timeout:
            self._client.drop(f"it answered nothing for {self._timeout:g} s")
        elif silent > (self._asked + 1) * self._pause:
            self._asked += 1
            self._client.send(PING)
