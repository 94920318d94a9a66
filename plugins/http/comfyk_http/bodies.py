"""Bodies that are read into memory: how much all of them may take together, while they come and while they are used.

A body takes its bytes while it comes. Once it is there it is parsed, and takes several times that until its request has
been answered; large ones do so one after the other, so that others are answered in between. Part of the room is kept
from large ones. Who finds no room waits for a while, and then is told to come again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from aiohttp import web
from comfyk.api import ApiError

from comfyk_http.errors import Handler, too_large
from comfyk_http.json_size import values_in
from comfyk_http.machine_memory import give_memory_back, memory_limit

_MB = 1024 * 1024
_SHARE = 8
_LEAST, _MOST = 128 * _MB, 2048 * _MB
_WAIT_S = 20.0
"""For room."""
_SLOW_S = 30.0
"""A body that comes for longer makes room for others."""
_COPIES = 4
"""How many times its bytes a body takes that is parsed, checked and stored."""
_VALUE = 120
"""Bytes that one of its values takes beside."""
_LARGE = 8 * _MB
_SMALL = 64 * 1024
_UNKNOWN = _MB
"""Taken for a body that does not say how long it is, until there is more of it."""
_TIDY_S = 0.5


class Room:
    """So many bytes, for those who come first; one alone may have more."""

    def __init__(self, most: int, large_at_once: int) -> None:
        self._most = most
        self._large_at_once = large_at_once
        self._used = self._large = 0
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    def take(self, size: int) -> asyncio.Future[None] | None:
        """None when there was room; else what to hand to `wait`."""
        if not self._queue and self._fits(size):
            self._add(size)
            return None
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((size, turn))
        self._let_in()
        return turn

    async def wait(self, size: int, turn: asyncio.Future[None]) -> None:
        """Raises TimeoutError when there is no room for too long."""
        try:
            async with asyncio.timeout(_WAIT_S):
                await turn
        except BaseException:
            if (size, turn) in self._queue:
                self._queue.remove((size, turn))
                self._let_in()
            elif not turn.cancelled():
                self.give_back(size)  # it was its turn
            raise

    def give_back(self, size: int) -> None:
        self._used -= size
        self._large -= size > _LARGE
        self._let_in()

    def _add(self, size: int) -> None:
        self._used += size
        self._large += size > _LARGE

    def _fits(self, size: int) -> bool:
        if self._used == 0:
            return True
        if size <= _LARGE:
            return self._used + size <= self._most
        return self._large == 0 or (
            self._large < self._large_at_once and self._used + size <= self._most * 3 // 4
        )

    def _let_in(self) -> None:
        """Those that fit, in order; a small one need not wait for a large one."""
        for waiting in list(self._queue):
            size, turn = waiting
            if turn.done():
                self._queue.remove(waiting)
            elif self._fits(size):
                self._queue.remove(waiting)
                self._add(size)
                turn.set_result(None)


@dataclass(slots=True, eq=False)
class _Body:
    """What one request has taken up."""

    begun: float
    coming: int = 0
    used: int = 0
    values: int = 0
    """Not more than so many are in it."""
    data: bytearray | None = None
    patience: asyncio.Timeout | None = None


_BODY = web.RequestKey("body", _Body)


class Bodies:
    """The bodies of one server."""

    def __init__(self, memory_mb: float | None) -> None:
        """`memory_mb` is what they may take; None: an eighth of the memory that the process may have, at most 2 GB."""
        if memory_mb is None:
            memory = max(_LEAST, min(_MOST, memory_limit() // _SHARE))
        else:
            memory = round(memory_mb * _MB)
        self._coming = Room(memory // 4, large_at_once=8)
        self._used = Room(memory - memory // 4, large_at_once=1)
        self._slow: set[_Body] = set()
        self._tidying = False

    async def read_for_json(self, request: web.Request) -> tuple[bytearray, int]:
        """The body whole, and how many values it holds at most. Raises as `read`."""
        data = await self.read(request)
        body = request[_BODY]
        if body.used > _LARGE:
            await asyncio.sleep(0)  # others are answered between the steps that take their time
        return data, body.values

    async def read(self, request: web.Request) -> bytearray:
        """The body whole. What it takes up is given back when the request is answered. Raises ApiError (413, 503)."""
        body = request.get(_BODY)
        if body is None:
            body = request[_BODY] = _Body(asyncio.get_running_loop().time())
        elif body.data is not None:
            return body.data
        try:
            data = await self._receive(request, body)
            body.values = values_in(data)
            size = len(data) * _COPIES + body.values * _VALUE
            if (turn := self._used.take(size)) is not None:
                await self._used.wait(size, turn)
            body.used = size
        except TimeoutError:
            raise ApiError(
                503,
                "too_many_bodies",
                "Other requests take up all the memory that there is for their bodies.",
                "Try again in a moment. http.body_memory_mb is the limit.",
                headers={"Retry-After": "10"},
            ) from None
        self._coming.give_back(body.coming)
        body.coming = 0
        body.data = data
        return data

    def forget(self, request: web.Request) -> None:
        """The request is answered."""
        body = request.pop(_BODY, None)
        if body is None:
            return
        if body.coming:
            self._coming.give_back(body.coming)
        if body.used:
            self._used.give_back(body.used)
        if body.coming + body.used > _LARGE and not self._tidying:
            self._tidying = True  # in a moment, when nothing refers to it any more
            asyncio.get_running_loop().call_later(_TIDY_S, self._tidy)

    def _tidy(self) -> None:
        self._tidying = False
        asyncio.get_running_loop().run_in_executor(None, give_memory_back)

    async def _receive(self, request: web.Request, body: _Body) -> bytearray:
        most, declared = request.client_max_size, request.content_length
        if declared is not None and declared > most:
            raise too_large(request)
        data = bytearray()
        await self._expect(body, _UNKNOWN if declared is None else declared)
        if body.coming <= _SMALL:
            async for piece in request.content.iter_any():
                data += piece
            return data
        self._slow.add(body)
        try:
            async with asyncio.timeout(None) as body.patience:
                async for piece in request.content.iter_any():
                    data += piece
                    if len(data) > most:
                        raise too_large(request)
                    if len(data) > body.coming:  # it does not say how much it is
                        await self._expect(body, most)
        finally:
            self._slow.discard(body)
        return data

    async def _expect(self, body: _Body, size: int) -> None:
        """Take room for a body that comes, in place of what was taken for it before."""
        if body.coming:
            self._coming.give_back(body.coming)
            body.coming = 0
        turn = self._coming.take(size)
        if turn is not None:
            now = asyncio.get_running_loop().time()
            for other in self._slow - {body}:
                if other.patience is not None:
                    other.patience.reschedule(max(now, other.begun + _SLOW_S))
            await self._coming.wait(size, turn)
        body.coming = size


BODIES = web.AppKey("bodies", Bodies)


@web.middleware
async def bodies_forgotten(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The middleware that gives back what a body took up, whichever way it was answered."""
    try:
        return await handler(request)
    finally:
        if _BODY in request:
            request.app[BODIES].forget(request)
