"""The thread that nodes run in, and its event loop: watched, and made anew when a node ends them.

A node may stop the loop, or leave behind what ends it with `sys.exit()`. Then the thread would be gone, and whatever is
put on its loop would never run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from comfyk.foreign_code import describe

log = logging.getLogger(__name__)

T = TypeVar("T")

_STOP_S = 5.0
_LAST_WORDS_S = 6.0
"""How long what was under way may take to end when its loop has ended."""


class LoopEnded(Exception):
    """The loop that nodes run on was ended by a node, or by what an earlier one left running; the message says how."""


class NodeLoop:
    """Runs coroutines in a thread of its own, one thread after the other."""

    def __init__(self, on_thread: Callable[[], None], on_end: Callable[[LoopEnded], None]) -> None:
        """`on_thread` is called first on each thread; `on_end` on one whose loop was ended, when there is another."""
        self._on_thread = on_thread
        self._on_end = on_end
        self._changing = threading.Lock()
        """Nothing is put on a loop that has ended."""
        self._loop = asyncio.new_event_loop()
        self._thread = self._new_thread()
        self._stopping = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._awaited: dict[
            asyncio.Future[Any], tuple[asyncio.AbstractEventLoop, asyncio.AbstractEventLoop]
        ] = {}
        """What others wait for: on which loop they wait, and on which it is made."""

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._work, args=(self._loop,), name="comfyk-executor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        """End the thread. A node that does not return in time is left behind; the process may end anyway."""
        with self._changing:
            self._stopping = True
            loop, thread = self._loop, self._thread
            if thread.is_alive():
                loop.call_soon_threadsafe(loop.stop)
        if thread.is_alive():
            await asyncio.to_thread(thread.join, _STOP_S)
        if thread.is_alive():
            log.warning("a node is still running and does not stop; leaving it behind")
        else:
            loop.close()

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await a coroutine that runs there. Raises LoopEnded when its loop was ended under it."""
        waiting_on = asyncio.get_running_loop()
        result: asyncio.Future[T] = waiting_on.create_future()

        def begin() -> None:
            task = asyncio.get_running_loop().create_task(work())
            self._tasks.add(task)  # a loop holds its tasks weakly
            task.add_done_callback(hand_over)

        def hand_over(task: asyncio.Task[T]) -> None:
            self._tasks.discard(task)
            with contextlib.suppress(RuntimeError):  # nobody waits: that loop is closed
                waiting_on.call_soon_threadsafe(_copy_result, task, result)

        with self._changing:
            self._awaited[result] = (waiting_on, self._loop)
            self._loop.call_soon_threadsafe(begin)
        try:
            return await result
        finally:
            self._awaited.pop(result, None)

    def call_soon(self, function: Callable[[], None]) -> None:
        """Call a function there, from any thread."""
        with contextlib.suppress(RuntimeError):  # closed: nothing is left to call it on
            self._loop.call_soon_threadsafe(function)

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        how = "it was stopped"
        try:
            self._on_thread()
            asyncio.set_event_loop(loop)
            loop.run_forever()
        except BaseException as error:
            how = f"by {describe(error)}"
        with self._changing:
            if self._stopping:
                return
            self._loop = asyncio.new_event_loop()
            self._thread = self._new_thread()
            self._thread.start()
        ended = LoopEnded(
            f"The event loop that nodes run on was ended by a node, or by what an earlier one left: {how}"
        )
        log.error("%s; nodes run on another one now", ended)
        with contextlib.suppress(Exception):
            self._on_end(ended)
        _finish(loop)
        for result, (waiting_on, made_on) in self._awaited.copy().items():
            if made_on is loop:
                with contextlib.suppress(RuntimeError):
                    waiting_on.call_soon_threadsafe(_fail, result, ended)


def _finish(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what was under way on a loop that has ended, and let it say its last words."""

    async def cancel_all() -> None:
        left = asyncio.all_tasks(loop) - {asyncio.current_task(loop)}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=_LAST_WORDS_S)

    for _ in range(3):  # what ended the loop may end it again
        try:
            loop.run_until_complete(cancel_all())
            break
        except BaseException as error:
            log.debug("the last of an event loop: %s", describe(error))
    with contextlib.suppress(RuntimeError):
        loop.close()


def _copy_result(task: asyncio.Task[T], result: asyncio.Future[T]) -> None:
    if result.done():
        return
    if task.cancelled():  # not by who waits: that is not how anybody is stopped here
        result.set_exception(LoopEnded("What ran was cancelled on the event loop that nodes run on"))
    elif (error := task.exception()) is not None:
        result.set_exception(error)
    else:
        result.set_result(task.result())


def _fail(result: asyncio.Future[Any], error: Exception) -> None:
    if not result.done():
        result.set_exception(error)
