"""Listening: takes connections in while there is room, and waits while there is none, without a word for each."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
import sys
from collections.abc import Callable
from typing import Any

from comfyk_http.connections import Connection, Connections

log = logging.getLogger(__name__)

_BACKLOG = 1024
_AT_ONCE = 64
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_UNTIL_ROOM = 0.25
"""Seconds until it is tried again."""
_MOST_REFUSALS = 16
_REFUSAL_TIME = 0.5
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\nRetry-After: 5\r\n"
    b"Content-Length: %d\r\n\r\n%s"
)
_BODY = (
    b'{"error":{"type":"too_many_connections","message":"The server has as many connections as it takes.",'
    b'"details":"Try again in a moment. http.max_connections and http.max_connections_per_address are the limits.",'
    b'"extra_info":{}},"status_code":503}'
)


async def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on all addresses of a host. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, place in dict.fromkeys(found):
            try:
                bound = socket.socket(family, kind, protocol)
            except OSError:  # a family that this system does not have
                continue
            sockets.append(bound)
            bound.setblocking(False)
            if os.name == "posix" and sys.platform != "cygwin":
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind(place)
            bound.listen(_BACKLOG)
    except BaseException:
        for bound in sockets:
            bound.close()
        raise
    if not sockets:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    return sockets


class Listener:
    """Takes in what comes to one socket, and hands it to connections of its own."""

    def __init__(
        self,
        bound: socket.socket,
        connections: Connections,
        make: Callable[[str], Connection],
        tls: ssl.SSLContext | None,
    ) -> None:
        self._socket = bound
        self._connections = connections
        self._make = make
        self._tls = tls
        self._refused: set[socket.socket] = set()
        self._arriving: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._retry: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        try:
            self._loop.add_reader(self._socket, self._accept)
        except NotImplementedError:  # Windows' own loop
            self._task = self._loop.create_task(self._accept_each())

    async def close(self) -> None:
        """Take in no more."""
        if self._task is None:
            self._loop.remove_reader(self._socket)
        else:
            self._task.cancel()
        if self._retry is not None:
            self._retry.cancel()
        for task in self._arriving:
            task.cancel()
        await asyncio.gather(*filter(None, [self._task]), *self._arriving, return_exceptions=True)
        self._socket.close()
        for refused in tuple(self._refused):
            self._let_go(refused)

    def _accept(self) -> None:
        """Somebody waits. Who came together is taken in together."""
        for _ in range(_AT_ONCE):
            try:
                self._take(*self._socket.accept())
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if self._has_no_room(error):
                    self._loop.remove_reader(self._socket)
                    self._retry = self._loop.call_later(_UNTIL_ROOM, self._accept_again)
                return

    def _accept_again(self) -> None:
        self._retry = None
        self._loop.add_reader(self._socket, self._accept)

    async def _accept_each(self) -> None:
        while True:
            try:
                self._take(*await self._loop.sock_accept(self._socket))
            except OSError as error:
                await asyncio.sleep(_UNTIL_ROOM if self._has_no_room(error) else 0)

    def _has_no_room(self, error: OSError) -> bool:
        """Whether the system is at its limit: then somebody idle goes. Otherwise the client is gone already."""
        if error.errno not in _NO_ROOM:
            log.debug("a connection could not be taken in: %s", error)
            return False
        self._connections.say("system", f"the system has no room for another connection ({error.strerror})")
        self._connections.make_room()
        return True

    def _take(self, accepted: socket.socket, peer: Any) -> None:
        accepted.setblocking(False)
        address = str(peer[0]) if peer else ""
        if not self._connections.admit(address):
            self._refuse(accepted)
            return
        task = self._loop.create_task(self._connect(accepted, address))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)

    async def _connect(self, accepted: socket.socket, address: str) -> None:
        timeout = {} if self._tls is None else {"ssl_handshake_timeout": self._connections.limits.header}
        connection = self._make(address)
        try:
            await self._loop.connect_accepted_socket(lambda: connection, accepted, ssl=self._tls, **timeout)
        except (OSError, asyncio.CancelledError) as error:  # it is gone, or does not speak TLS
            log.debug("a connection of %s did not come about: %s", address, error)
            accepted.close()
        finally:
            if not connection.was_made:
                self._connections.failed(address)

    def _refuse(self, accepted: socket.socket) -> None:
        """Say why, if it can be said at once, and give the client a moment to read it."""
        if self._tls is not None or len(self._refused) >= _MOST_REFUSALS:
            accepted.close()
            return
        try:
            accepted.send(_REFUSAL % (len(_BODY), _BODY))
            accepted.shutdown(socket.SHUT_WR)
        except OSError:
            accepted.close()
            return
        self._refused.add(accepted)
        self._loop.call_later(_REFUSAL_TIME, self._let_go, accepted)

    def _let_go(self, refused: socket.socket) -> None:
        self._refused.discard(refused)
        refused.close()
