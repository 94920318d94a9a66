"""The executor: a thread with an event loop of its own, on which jobs run one after another.

Nodes may block it; clients, the queue and the store live on the app's loop and go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

from comfyk.context import set_app
from comfyk.execution.cache import (
    GIB,
    ClassicCache,
    LruCache,
    NodeObjects,
    NullCache,
    OutputCache,
    RamPressureCache,
)
from comfyk.execution.run import JobRun
from comfyk.jobs.model import Job

if TYPE_CHECKING:
    from comfyk.app import App
    from comfyk.settings import ExecutionSettings

log = logging.getLogger(__name__)

# A job that takes no longer than this tells all its news at once.
_SHORT_JOB_S = 0.001
# After a job that took longer, what it left in reference cycles is collected: there may be tensors among it.
_LONG_JOB_S = 2.0

T = TypeVar("T")


class Executor:
    """Runs jobs. `prepare`, `run`, `interrupt` and `free` are called on the app's loop."""

    def __init__(self, app: App) -> None:
        self.app = app
        made = app.plugins.call("comfyk_create_cache", app=app)
        self.cache: OutputCache = made[0] if made else make_cache(app.settings.execution)
        self.objects = NodeObjects()
        self.current: JobRun | None = None
        """The job under way."""
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self._work, name="comfyk-executor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread. A node that does not return in time is left behind; the process may end anyway."""
        if not self._thread.is_alive():
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        if self._thread.is_alive():
            log.warning("a node is still running and does not stop; leaving it behind")
        else:
            self._loop.close()

    def _work(self) -> None:
        set_app(self.app)
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def prepare(self, job: Job) -> JobRun:
        """Make a job the one under way, so that it can be interrupted from now on."""
        self.current = JobRun(self, job, asyncio.get_running_loop())
        return self.current

    async def run(self, run: JobRun) -> None:
        """Run a prepared job to its end; the outcome is in its report."""
        begun = time.monotonic()
        self.app.events.cork(_SHORT_JOB_S)
        try:
            await self._on_thread(run.run)
        finally:
            self.current = None
            self.app.events.uncork()
        run.report.progress.flush()
        if time.monotonic() - begun > _LONG_JOB_S:
            self.call_soon(_collect)

    async def _on_thread(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await a coroutine that runs on the executor's loop."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()

        def begin() -> None:
            task = self._loop.create_task(work())
            self._tasks.add(task)  # a loop holds its tasks weakly
            task.add_done_callback(hand_over)

        def hand_over(task: asyncio.Task[T]) -> None:
            self._tasks.discard(task)
            with contextlib.suppress(RuntimeError):  # the app's loop is closed: nobody waits
                loop.call_soon_threadsafe(_copy_result, task, result)

        self._loop.call_soon_threadsafe(begin)
        return await result

    def interrupt(self) -> None:
        """Ask the job under way to stop."""
        if self.current is not None:
            self.current.interrupt()

    async def free(self, *, unload_models: bool, free_memory: bool) -> dict[str, Any]:
        """Free what can be made again; call it between jobs. Returns what was freed."""
        return await self._on_thread(lambda: self._free(unload_models, free_memory))

    async def _free(self, unload_models: bool, free_memory: bool) -> dict[str, Any]:
        freed: dict[str, Any] = {}
        if free_memory:
            freed["cached_results"] = self.cache.clear()
            self.objects.clear()
        for part in self.app.plugins.call(
            "comfyk_free_memory", app=self.app, unload_models=unload_models, free_memory=free_memory
        ):
            freed.update(part)
        gc.collect()
        return freed

    def call_soon(self, function: Callable[[], None]) -> None:
        """Call a function on the executor's loop, from any thread."""
        with contextlib.suppress(RuntimeError):  # closed: nothing is left to call it on
            self._loop.call_soon_threadsafe(function)

    @contextlib.contextmanager
    def job_context(self, job: Job) -> Iterator[None]:
        """What plugins want around a job."""
        if not self.app.plugins.implements("comfyk_job_context"):
            yield
            return
        with contextlib.ExitStack() as stack:
            for manager in self.app.hook.comfyk_job_context(app=self.app, job_id=job.id):
                stack.enter_context(manager)
            yield


def _copy_result(task: asyncio.Task[T], result: asyncio.Future[T]) -> None:
    if result.cancelled():
        return
    if task.cancelled():
        result.cancel()
    elif (error := task.exception()) is not None:
        result.set_exception(error)
    else:
        result.set_result(task.result())


def _collect() -> None:
    gc.collect()


def make_cache(settings: ExecutionSettings) -> OutputCache:
    """The cache that the settings ask for."""
    match settings.cache:
        case "classic":
            return ClassicCache()
        case "lru":
            return LruCache(settings.cache_lru)
        case "none":
            return NullCache()
    total = psutil.virtual_memory().total
    active = settings.cache_ram_gb
    inactive = settings.cache_ram_inactive_gb
    return RamPressureCache(
        headroom=int(active * GIB) if active is not None else min(10 * GIB, max(2 * GIB, total // 10)),
        inactive_headroom=int(inactive * GIB) if inactive is not None else None,
    )
