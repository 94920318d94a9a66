"""The event loop that a command runs on: it ends when the command is done, and for no other reason."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from types import FrameType
from typing import Any, TypeVar

from comfyk.ctrl_c import CtrlC, interrupt
from comfyk.foreign_code import describe

log = logging.getLogger(__name__)

T = TypeVar("T")

_LEFT_S = 5.0
"""How long what is left over may take to end."""


class Ended(Exception):
    """The command came to an end that nobody asked for; the message says why."""


def run_to_end(main: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop | None = None) -> T:
    """The result of a command, which runs on this new loop, or on one of asyncio's.

    Raises what it raises, Ended for what would end the process without a word.

    `sys.exit()` and the like in a callback or a task of somebody else do not end it, nor does `loop.stop()`: they are
    logged, and the loop goes on. Ctrl-C cancels the command, and then comes out as CtrlC; a second one comes at once.
    """
    loop = loop or asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    task = loop.create_task(main)
    try:
        with _cancelled_by_ctrl_c(loop, task) as asked:
            try:
                return _run(loop, task)
            except asyncio.CancelledError:
                if asked:
                    raise CtrlC from None
                raise
    except (SystemExit, KeyboardInterrupt, asyncio.CancelledError) as error:
        if isinstance(error, CtrlC):
            raise
        log.error("this ended the program", exc_info=error)
        raise Ended(
            f"The program was ended by {describe(error)}, which nobody asked for; the log says where."
        ) from error
    finally:
        _clean_up(loop)


def _run(loop: asyncio.AbstractEventLoop, task: asyncio.Task[T]) -> T:
    while True:
        try:
            return loop.run_until_complete(task)
        except BaseException as error:
            if task.done() or isinstance(error, CtrlC):
                raise
            # From a callback or a task of somebody else: what else is ready to run is still there.
            if isinstance(error, RuntimeError):
                log.error("something stopped the event loop, which goes on")
            else:
                log.error("something would have ended the program, which goes on", exc_info=error)


@contextlib.contextmanager
def _cancelled_by_ctrl_c(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> Iterator[list[int]]:
    """Within it the first SIGINT cancels the task; yields the signals that came."""
    asked: list[int] = []

    def handle(signum: int, frame: FrameType | None) -> None:
        asked.append(signum)
        if len(asked) > 1:
            raise CtrlC
        loop.call_soon_threadsafe(task.cancel)

    own = threading.current_thread() is threading.main_thread()
    if not own or signal.getsignal(signal.SIGINT) not in (interrupt, signal.default_int_handler):
        yield asked
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _clean_up(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what is left on the loop, and close it, however long that would take by itself."""

    async def end() -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=_LEFT_S)
        await loop.shutdown_asyncgens()

    try:
        _run(loop, loop.create_task(end()))
    finally:
        asyncio.set_event_loop(None)
        loop.close()  # without waiting for its threads: see `end_within`


def end_within(seconds: float, code: int) -> None:
    """End the process in any case, with this exit code if it has not ended by itself: its threads may be stuck."""

    def end() -> None:
        time.sleep(seconds)
        stuck = [one.name for one in threading.enumerate() if not one.daemon]
        log.error(
            "the process has not ended in %g s, so it is ended; its threads: %s", seconds, ", ".join(stuck)
        )
        with contextlib.suppress(Exception):
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)

    threading.Thread(target=end, name="comfyk-end", daemon=True).start()
