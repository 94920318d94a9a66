"""Code of packs and plugins: what it raises, and that it may never return.

Whatever foreign code raises is its own failure and ends nothing else: `SystemExit`, `KeyboardInterrupt`, the panic of
an extension in Rust. What must not be held back there is told by `is_ours`. What does not return is told in the log
with its name (`watch`); where somebody else would wait for it, it is called in a thread (`FOREIGN`).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, TypeVar

from comfyk.ctrl_c import CtrlC

__all__ = ["FOREIGN", "ForeignThreads", "Overloaded", "describe", "is_ours", "text_of", "watch"]

log = logging.getLogger(__name__)

T = TypeVar("T")

_TOLD_AFTER_S = (5.0, 60.0, 600.0)
"""When it is told that something has not returned; the last one again and again."""
_LOOK_EVERY_S = 1.0
_WATCHER_STAYS_S = 30.0
_FRAMES_SHOWN = 8


def is_ours(error: BaseException) -> bool:
    """Whether what came out of foreign code has to go on: Ctrl-C, and the cancelling of the task that runs here."""
    if isinstance(error, asyncio.CancelledError):
        try:
            task = asyncio.current_task()
        except RuntimeError:
            return False
        return task is not None and task.cancelling() > 0
    return isinstance(error, CtrlC)


def text_of(value: Any) -> str:
    """`str(value)`, also for objects whose author got that wrong."""
    try:
        return str(value)
    except BaseException as error:
        if is_ours(error):
            raise
        return f"<{type(value).__name__}, whose text cannot be had: {type(error).__name__}>"


def describe(error: BaseException) -> str:
    """The kind of an error and its text, however wrong its author got that."""
    return f"{type(error).__name__}: {text_of(error)}".removesuffix(": ")


# --- what does not return ---------------------------------------------------------------------------------------


class watch:
    """Within it foreign code runs: when that takes long, the log says what it is and where it stands."""

    __slots__ = ("_kind", "_name", "_since", "_skipped", "_thread", "_told")

    def __init__(self, kind: str, name: str, *, awaits: bool = False, patient: bool = False) -> None:
        """With `awaits` the thread does other things meanwhile, so where it stands says nothing. With `patient` a
        minute is nothing unusual.
        """
        self._kind = kind
        self._name = name
        self._told = 0
        self._skipped = int(patient)
        self._thread = 0 if awaits else threading.get_ident()

    def __enter__(self) -> None:
        self._since = time.monotonic()
        _under_way[id(self)] = self
        if _watcher is None:
            _start_watcher()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        _under_way.pop(id(self), None)
        if self._told:
            seconds = time.monotonic() - self._since
            log.warning("%s %s has returned after %.0f s", self._kind, self._name, seconds)

    def look(self, now: float) -> None:
        """Tell that it has not returned, if it is time."""
        last, step = len(_TOLD_AFTER_S) - 1, self._told + self._skipped
        due = _TOLD_AFTER_S[min(step, last)] * max(1, step - last + 1)
        if now - self._since < due:
            return
        self._told += 1
        where = _stack(sys._current_frames().get(self._thread))
        log.warning("%s %s has not returned for %.0f s%s", self._kind, self._name, now - self._since, where)


_under_way: dict[int, watch] = {}
_watcher: threading.Thread | None = None


def _start_watcher() -> None:
    global _watcher
    _watcher = threading.Thread(target=_watch, name="comfyk-watch", daemon=True)
    _watcher.start()


def _watch() -> None:
    global _watcher
    idle_since = time.monotonic()
    while True:
        time.sleep(_LOOK_EVERY_S)
        now = time.monotonic()
        if _under_way:
            idle_since = now
        elif now - idle_since > _WATCHER_STAYS_S:
            _watcher = None  # who comes next starts another
            if _under_way:
                _start_watcher()
            return
        for one in list(_under_way.values()):
            try:
                one.look(now)
            except Exception:
                log.exception("it could not be told what does not return")


def _stack(frame: FrameType | None) -> str:
    if frame is None:
        return ""
    return "; it is at\n" + "".join(traceback.format_stack(frame, _FRAMES_SHOWN)).rstrip()


# --- threads ----------------------------------------------------------------------------------------------------


class Overloaded(Exception):
    """Too many calls of foreign code have not returned; the message names some."""


@dataclass(slots=True, eq=False)
class _Call:
    function: Callable[[], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    context: contextvars.Context
    since: float = 0.0


@dataclass(slots=True, eq=False)
class _Thread:
    calls: SimpleQueue[_Call] = field(default_factory=SimpleQueue)


class ForeignThreads:
    """Threads for foreign code. A few work at a time; one that does not return is not counted any more.

    They are no threads of the standard library's pools: what never returns must not keep the process from ending.
    """

    def __init__(self, at_a_time: int = 4, at_most: int = 200, *, patience_s: float = 0.5) -> None:
        """`at_most` calls may be under way for longer than `patience_s`; then no more are taken."""
        self._at_a_time = at_a_time
        self._at_most = at_most
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._idle: list[_Thread] = []
        self._calls: set[_Call] = set()
        self._waiting: deque[_Call] = deque()

    async def run(self, function: Callable[[], T]) -> T:
        """The result of a function that runs in a thread, in this context. Raises Overloaded, and what it raises.

        Who is cancelled stops waiting; the function goes on.
        """
        loop = asyncio.get_running_loop()
        call = _Call(function, loop.create_future(), loop, contextvars.copy_context())
        with self._lock:
            if len(self._calls) >= self._at_most:
                raise Overloaded(
                    f"{len(self._calls)} checks by node packs have not returned, so no more are begun; the log names "
                    "the nodes. Disable their pack and start the server again."
                )
            self._waiting.append(call)
        self._set_off()
        if not call.since:
            self._look_again(call)
        return await call.future

    def _look_again(self, call: _Call) -> None:
        """Those that work now may be stuck."""

        def look() -> None:
            self._set_off()
            if not call.since and not call.future.done():
                self._look_again(call)

        call.loop.call_later(self._patience_s / 2, look)

    def _set_off(self) -> None:
        """Give calls that wait to threads, as many as may work at a time."""
        with self._lock:
            now = time.monotonic()
            working = sum(1 for call in self._calls if now - call.since < self._patience_s)
            while self._waiting and working < self._at_a_time:
                call = self._waiting.popleft()
                if call.future.cancelled():
                    continue
                call.since = now
                self._calls.add(call)
                working += 1
                thread = self._idle.pop() if self._idle else self._new_thread()
                thread.calls.put(call)

    def _new_thread(self) -> _Thread:
        thread = _Thread()
        threading.Thread(target=self._work, args=(thread,), name="comfyk-foreign", daemon=True).start()
        return thread

    def _work(self, thread: _Thread) -> None:
        while True:
            try:
                call = thread.calls.get(timeout=_WATCHER_STAYS_S)
            except Empty:
                with self._lock:
                    if thread in self._idle:
                        self._idle.remove(thread)
                        return
                continue
            result: Any = None
            failure: BaseException | None = None
            try:
                result = call.context.run(call.function)
            except BaseException as error:
                failure = error
            with self._lock:
                self._calls.discard(call)
                self._idle.append(thread)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                call.loop.call_soon_threadsafe(_resolve, call.future, result, failure)
            if self._waiting:
                self._set_off()
            del call, result, failure


def _resolve(future: asyncio.Future[Any], result: Any, failure: BaseException | None) -> None:
    if future.done():
        return
    if failure is None:
        future.set_result(result)
    else:
        future.set_exception(_as_exception(failure))


def _as_exception(failure: BaseException) -> BaseException:
    """What a future can hold, and a loop survives."""
    if not isinstance(failure, Exception) or isinstance(failure, StopIteration):
        error = RuntimeError(describe(failure))
        error.__cause__ = failure
        return error
    return failure


FOREIGN = ForeignThreads()
"""For whatever of packs somebody waits for."""
