"""What one connection may do: how long it may be silent, how slowly it may talk, and how many there may be.

aiohttp speaks HTTP, and closes what is idle between two requests. It waits for ever for the rest of a header or a body,
for a client that does not take its answer, and for a WebSocket whose other end is gone. So all connections are looked
at about once a second, which costs a request nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from comfyk.api import ApiError, as_object
from comfyk.wire import dumps

from comfyk_http.descriptors import connections_that_fit
from comfyk_http.settings import HttpSettings

log = logging.getLogger(__name__)

_LINGERING = 5
"""Seconds that a closed connection may take to send what is left, before it is cut."""
_SELDOM = 60
"""Seconds between two lines of the log that say the same of many connections."""
_LOOKS = 64
_SHARE_OF_ONE_ADDRESS = 0.75
_SHARE_OF_THOSE_WHO_STAY = 0.75


class Limits(NamedTuple):
    """How long, in seconds, and how many."""

    header: float
    body: float
    idle: float
    bytes_per_second: float
    connections: int
    per_address: int

    @staticmethod
    def of(settings: HttpSettings) -> Limits:
        most = connections_that_fit(settings.max_connections)
        each = settings.max_connections_per_address or max(1, round(most * _SHARE_OF_ONE_ADDRESS))
        return Limits(
            settings.header_timeout,
            settings.body_timeout,
            settings.keepalive_timeout,
            settings.min_rate_kb * 1024,
            most,
            each,
        )


class Connection(web.RequestHandler):
    """One connection, from its first byte to its last."""

    __slots__ = (
        "_allowance",
        "_asked",
        "_heard",
        "_leaving",
        "_pipe",
        "_since",
        "_sizes",
        "_state",
        "_table",
        "address",
        "received",
        "tick",
    )  # fmt: skip

    def __init__(self, table: Connections, server: web.Server, address: str, **options: Any) -> None:
        """`address` is the client's, without its port; `options` are aiohttp's."""
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self.address = address
        self.received = 0
        """Bytes, all requests together."""
        self.tick: Callable[[float], None] | None = None
        """For what goes on after HTTP, such as a WebSocket: is called with the time in place of the checks here."""
        self._table = table
        self._pipe: asyncio.Transport | None = None
        self._asked = 0
        self._heard = 0
        """`received` when a header was whole, or a request was answered: what came since begins a request."""
        self._state: Any = None
        self._since = 0.0
        self._allowance = 0.0
        self._sizes = (0, 0)
        self._leaving: list[Callable[[], None]] = []

    # --- what aiohttp and the loop tell -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._pipe = transport  # type: ignore[assignment]
        self._since = self._loop.time()
        self._table.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._table.remove(self)
        leaving, self._leaving = self._leaving, []
        for call in leaving:
            call()

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        super().data_received(data)
        if self._request_count != self._asked:
            self._asked, self._heard = self._request_count, self.received

    def log_access(self, request: web.BaseRequest, response: web.StreamResponse, time: float | None) -> None:
        """aiohttp calls this when an answer is sent."""
        self._heard = self.received
        self._table.answered(self)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no HTTP, and what went wrong outside of all handlers: JSON, and one line of the log."""
        if status >= 500:
            log.error("%s %s failed", request.method, request.path, exc_info=exc)
            error = ApiError(500, "internal_error", "The server failed to answer; its log says why.")
        else:
            error = _protocol_error(status, exc, message)
            log.info("refused what %s sent: %s", self.address, error.message)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun")
        response = web.Response(
            status=error.status, body=dumps(as_object.write(error)), content_type="application/json"
        )
        response.force_close()
        return response

    # --- what the table and handlers ask ----------------------------------------------------------------------------

    def when_gone(self, call: Callable[[], None]) -> Callable[[], None]:
        """Call this when the connection is lost. Returns what takes that back."""
        if self.transport is None:
            call()
            return lambda: None
        self._leaving.append(call)
        return lambda: self._leaving.remove(call) if call in self._leaving else None

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request, or for the rest of a header."""
        return self._waiter is not None and not self._waiter.done()

    @property
    def was_made(self) -> bool:
        """Whether it came about, also if it has ended since."""
        return self._pipe is not None

    def cut(self) -> None:
        """End it now; what was not sent is lost."""
        if self._pipe is not None:
            self._pipe.abort()

    def check(self, now: float, passed: float, limits: Limits) -> None:
        """End the connection if its time is up; `passed` is since the last check."""
        pipe = self._pipe
        if pipe is None:
            return
        if pipe.is_closing():
            self._enter("closing", now)
            if now - self._since > _LINGERING:
                pipe.abort()
        elif self.tick is not None:
            self.tick(now)
        elif self.is_idle:
            begun = self.received > self._heard
            self._enter(("header" if begun else "idle", self._asked), now)
            if now - self._since > (limits.header if begun else limits.idle):
                self.force_close()
        else:
            self._check_pace(now, passed, limits, pipe)

    def _enter(self, state: Any, now: float) -> bool:
        if state == self._state:
            return False
        self._state, self._since = state, now
        return True

    def _check_pace(self, now: float, passed: float, limits: Limits, pipe: asyncio.Transport) -> None:
        """A body that comes, and an answer that is taken in, has to do so at a rate; a pause eats up an allowance."""
        waiting = pipe.get_write_buffer_size() if self.writing_paused else 0
        if self.writing_paused:
            new = self._enter(("answer", self._asked), now)
        elif self._body_comes() and pipe.is_reading():
            new = self._enter(("body", self._asked), now)
        else:  # the server's turn
            self._enter(("work", self._asked), now)
            return
        before, self._sizes = self._sizes, (self.received, waiting)
        if new:
            self._allowance = limits.body
            return
        moved = self.received - before[0] if not self.writing_paused else max(0, before[1] - waiting)
        self._allowance = min(limits.body, self._allowance - passed + moved / limits.bytes_per_second)
        if self._allowance <= 0:
            log.info("gave up on %s, which is too slow (%s)", self.address, self._state[0])
            pipe.abort()

    def resume_writing(self) -> None:
        self._state = None  # what was written at once has left: a new allowance for the next
        super().resume_writing()

    def _body_comes(self) -> bool:
        request = self._current_request
        return request is not None and not request.content.is_eof()


def _protocol_error(status: int, error: BaseException | None, message: str | None) -> ApiError:
    if isinstance(error, LineTooLong):
        return ApiError(
            431, "header_too_large", "The request's first line or one of its headers is too long."
        )
    reason = (message or str(error) or "it cannot be read").strip().splitlines()[0][:200]
    return ApiError(status, "bad_http", f"This is no HTTP request: {reason.rstrip(' :')}")


class _Order:
    """Connections as they may have to go: who never asked for anything first, then who is idle for the longest."""

    def __init__(self) -> None:
        self._new: dict[Connection, None] = {}
        self._kept: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._new) + len(self._kept)

    def add(self, connection: Connection) -> None:
        self._new[connection] = None

    def answered(self, connection: Connection) -> None:
        """It goes to the end of those that are of use."""
        self._new.pop(connection, None)
        self._kept.pop(connection, None)
        self._kept[connection] = None

    def remove(self, connection: Connection) -> None:
        self._new.pop(connection, None)
        self._kept.pop(connection, None)

    def first_idle(self) -> Connection | None:
        """The one to go. Who turns out to be busy goes to the end, so that nobody is looked at again and again."""
        for queue in (self._new, self._kept):
            for connection in list(islice(queue, _LOOKS)):
                if connection.is_idle:
                    return connection
                del queue[connection]
                self._kept[connection] = None
        return None


class Connections:
    """All connections of one server."""

    def __init__(self, settings: HttpSettings) -> None:
        self.limits = Limits.of(settings)
        self.websockets = 0
        self.waiting = 0
        """Requests that wait for a job."""
        self._all: set[Connection] = set()
        self._arriving: Counter[str] = Counter()
        """By address: those that were accepted, and have yet to be added (TLS takes its time)."""
        self._order = _Order()
        self._by_address: defaultdict[str, _Order] = defaultdict(_Order)
        self._said: dict[str, tuple[float, int]] = {}
        """What was said: when, and how often it was not said since."""
        shortest = min(self.limits.header, self.limits.body, self.limits.idle, settings.websocket_timeout)
        self._interval = min(1.0, shortest / 4)
        self._timer: asyncio.TimerHandle | None = None
        self._checked = 0.0

    def __len__(self) -> int:
        return len(self._all) + self._arriving.total()

    @property
    def room_to_stay(self) -> bool:
        """WebSockets, and requests that wait for a job, stay for long: some connections are kept for the others."""
        most = max(1, round(self.limits.connections * _SHARE_OF_THOSE_WHO_STAY))
        return self.websockets + self.waiting < most

    def admit(self, address: str) -> bool:
        """Whether one more may come from there. One that is idle makes room for it when there is none."""
        here = self._by_address.get(address)
        count = (0 if here is None else len(here)) + self._arriving[address]
        if count >= self.limits.per_address and not self._make_room(here):
            self.say("address", f"{address} has {count} connections, as many as one address may")
            return False
        if len(self) >= self.limits.connections and not self._make_room(self._order):
            self.say("all", f"{len(self)} connections are open, as many as there may be")
            return False
        self._arriving[address] += 1
        return True

    def failed(self, address: str) -> None:
        """One that was admitted will not come."""
        self._arriving[address] -= 1
        if not self._arriving[address]:
            del self._arriving[address]

    def add(self, connection: Connection) -> None:
        """One that was admitted is there."""
        self.failed(connection.address)  # it arrives no more
        self._all.add(connection)
        self._order.add(connection)
        self._by_address[connection.address].add(connection)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._checked = loop.time()
            self._timer = loop.call_later(self._interval, self._check)

    def answered(self, connection: Connection) -> None:
        if connection in self._all:
            self._order.answered(connection)
            self._by_address[connection.address].answered(connection)

    def remove(self, connection: Connection) -> None:
        """Count it no more; once is enough."""
        if connection not in self._all:
            return
        self._all.discard(connection)
        self._order.remove(connection)
        here = self._by_address[connection.address]
        here.remove(connection)
        if not here:
            del self._by_address[connection.address]

    def make_room(self) -> None:
        """Let an idle connection go, since the system has no descriptor left."""
        self._make_room(self._order)

    def _make_room(self, order: _Order | None) -> bool:
        victim = None if order is None else order.first_idle()
        if victim is None:
            return False
        victim.cut()
        self.remove(victim)  # the loop closes its socket in its next turn
        return True

    def say(self, kind: str, what: str) -> None:
        """Warn, but not for each of many."""
        now = asyncio.get_running_loop().time()
        when, more = self._said.get(kind, (float("-inf"), 0))
        if now - when < _SELDOM:
            self._said[kind] = when, more + 1
            return
        self._said[kind] = now, 0
        beside = f" ({more} more were refused since this was last said)" if more else ""
        log.warning("%s: no more are let in%s", what, beside)

    def close(self) -> None:
        """Look at nobody any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        now = asyncio.get_running_loop().time()
        passed, self._checked = now - self._checked, now
        for connection in tuple(self._all):
            try:
                connection.check(now, passed, self.limits)
            except Exception:
                log.exception("a connection of %s cannot be looked at", connection.address)
                connection.cut()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._interval, self._check) if self._all else None
