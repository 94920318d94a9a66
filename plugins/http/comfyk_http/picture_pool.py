"""Where pictures are decoded and encoded: in threads of their own, within a budget of memory.

A large picture takes seconds and hundreds of megabytes. At most one such is worked on at a time, and part of the budget
is kept from it, so that small ones do not wait. Nothing else waits for any of them, and work whose client has left ends
at its next step.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TypeVar, cast

from aiohttp import web

from comfyk_http.connections import Connection
from comfyk_http.machine_memory import give_memory_back, memory_limit
from comfyk_http.pictures import ClientLeft, PictureError, Source, cost_of

log = logging.getLogger(__name__)

T = TypeVar("T")

_MB = 1024 * 1024
_SHARE = 8
_LEAST, _MOST = 128 * _MB, 2048 * _MB
_LARGE = 64 * _MB
"""Work that takes more memory counts as large."""


@dataclass(slots=True, eq=False)
class _Waiting:
    cost: int
    turn: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def is_large(self) -> bool:
        return self.cost > _LARGE


class PicturePool:
    """The pictures of one server."""

    def __init__(self, memory_mb: float | None) -> None:
        """`memory_mb` is the budget; None: an eighth of the memory that the process may have, at most 2 GB."""
        self._memory_mb = memory_mb
        self._threads = ThreadPoolExecutor(
            max_workers=max(2, min(4, os.cpu_count() or 1)), thread_name_prefix="comfyk-pictures"
        )
        self._budget = 0
        self._used = 0
        self._large = 0
        self._queue: list[_Waiting] = []

    async def run(
        self, request: web.Request, picture: Path | BytesIO, work: Callable[[Source, int], T], *more: Path
    ) -> T:
        """Call `work` in a thread with the picture, and with the memory that it may take.

        `more` are further pictures that it reads. Raises PictureError for a picture that is none or does not fit, and
        ConnectionResetError when the client leaves meanwhile.
        """
        loop = asyncio.get_running_loop()
        if not self._budget:
            self._budget = await asyncio.to_thread(self._find_budget)
        source = Source(picture)
        mine: _Waiting | None = None

        def leave() -> None:
            source.left = True
            if mine is not None and not mine.turn.done():
                mine.turn.set_exception(ConnectionResetError("the client has left"))

        stay = cast("Connection", request.protocol).when_gone(leave)
        try:
            costs = [
                await loop.run_in_executor(self._threads, cost_of, Source(one)) for one in (picture, *more)
            ]
            mine = _Waiting(min(sum(costs), self._most))
            await self._wait(mine)
            try:
                return await loop.run_in_executor(self._threads, self._work, work, source, mine)
            finally:
                self._done(mine)
        except ClientLeft:
            raise ConnectionResetError("the client has left") from None
        finally:
            source.left = True  # whatever still runs is of no use
            stay()

    @property
    def _most(self) -> int:
        """What one picture may take."""
        return self._budget * 3 // 4

    def close(self) -> None:
        """Take no more work."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _find_budget(self) -> int:
        if self._memory_mb is not None:
            return round(self._memory_mb * _MB)
        return max(_LEAST, min(_MOST, memory_limit() // _SHARE))

    def _work(self, work: Callable[[Source, int], T], source: Source, mine: _Waiting) -> T:
        try:
            return work(source, self._most)
        except ClientLeft:
            problem: Exception = ClientLeft()
        except MemoryError:
            problem = PictureError("the picture is too large for the memory of this server")
        except PictureError as error:
            log.debug("a picture cannot be shown: %s", error.__cause__ or error)
            problem = PictureError(str(error))
        finally:
            # Here nothing refers to the picture any more, not even the frames of an error.
            if mine.is_large:
                give_memory_back()
        raise problem

    async def _wait(self, mine: _Waiting) -> None:
        if not self._fits(mine) or self._queue:
            self._queue.append(mine)
            self._let_in()
            try:
                await mine.turn
            except BaseException:
                if mine in self._queue:
                    self._queue.remove(mine)
                elif not mine.turn.cancelled() and mine.turn.exception() is None:
                    self._done(mine)  # it was its turn
                raise
        else:
            self._take(mine)

    def _fits(self, one: _Waiting) -> bool:
        return self._used + one.cost <= self._budget and not (one.is_large and self._large)

    def _take(self, one: _Waiting) -> None:
        self._used += one.cost
        self._large += one.is_large

    def _done(self, one: _Waiting) -> None:
        self._used -= one.cost
        self._large -= one.is_large
        self._let_in()

    def _let_in(self) -> None:
        """Those that fit, in order; a small one need not wait for a large one."""
        for one in list(self._queue):
            if one.turn.done():
                self._queue.remove(one)
            elif self._fits(one):
                self._queue.remove(one)
                self._take(one)
                one.turn.set_result(None)
