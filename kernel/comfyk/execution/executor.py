"""The kernel's executor: a thread with an event loop of its own, on which jobs run one after another.

Nodes may block it; clients, the queue and the store live on the app's loop and go on.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from comfyk.event_bus import EventBus
from comfyk.events import Event
from comfyk.execution.cache import OutputCache
from comfyk.execution.node_loop import LoopEnded, NodeLoop
from comfyk.execution.objects import NodeObjects
from comfyk.execution.run import JobRun
from comfyk.exits import without_exits
from comfyk.graph.signature import LazyChoices
from comfyk.hooks import BoundHooks
from comfyk.jobs.model import Job, Outcome
from comfyk.nodes.registry import NodeRegistry

log = logging.getLogger(__name__)

# A job that takes no longer than this tells all its news at once.
_SHORT_JOB_S = 0.001
# After a job that took longer, what it left in reference cycles is collected: there may be tensors among it.
_LONG_JOB_S = 2.0


class ThreadExecutor:
    """Runs jobs in a thread of this process: an `Executor` with room for one."""

    capacity = 1

    def __init__(
        self,
        nodes: NodeRegistry,
        events: EventBus,
        hook: BoundHooks,
        cache: OutputCache,
        on_thread: Callable[[], None],
    ) -> None:
        """`on_thread` is called first on the thread: `app.enter`, so that nodes find the app."""
        self._nodes = nodes
        self._events = events
        self._hook = hook
        self._cache = cache
        self._objects = NodeObjects()
        self._choices = LazyChoices()
        self._current: JobRun | None = None
        self._loop = NodeLoop(on_thread, self._loop_ended)

    async def start(self, capacity_changed: Callable[[], None]) -> None:
        self._loop.start()

    async def stop(self) -> None:
        """End the thread. A node that does not return in time is left behind; the process may end anyway."""
        await self._loop.stop()

    def _loop_ended(self, ended: LoopEnded) -> None:
        if (run := self._current) is not None:
            run.break_off(ended)

    def prepare(self, job: Job) -> Awaitable[Any] | None:
        if not self._hook.implements("comfyk_before_job"):
            return None
        waiting = self._hook.comfyk_before_job(job=job)
        return _all_of(waiting) if waiting else None

    async def run(self, job: Job, tell: Callable[[Event], None]) -> Outcome:
        begun = time.monotonic()
        loop = asyncio.get_running_loop()
        run = self._current = JobRun(
            job, self._nodes, self._cache, self._objects, self._choices, self._hook, tell, self._events, loop
        )
        self._events.cork(_SHORT_JOB_S)
        try:
            outcome = await self._loop.run(run.run)
        finally:
            self._current = None
        run.progress.flush()
        if time.monotonic() - begun > _LONG_JOB_S:
            self._loop.call_soon(_collect)
        return outcome

    def interrupt(self, job_id: str) -> None:
        run = self._current
        if run is not None and run.job.id == job_id:
            run.interrupt()
            self._loop.call_soon(run.cancel_calls)

    async def free(self, *, unload_models: bool, free_memory: bool) -> dict[str, Any]:
        return await self._loop.run(lambda: self._free(unload_models, free_memory))

    async def _free(self, unload_models: bool, free_memory: bool) -> dict[str, Any]:
        freed: dict[str, Any] = {}
        if free_memory:
            freed["cached_results"] = self._cache.clear()
            self._objects.clear()
        for part in self._hook.comfyk_free_memory(unload_models=unload_models, free_memory=free_memory):
            freed.update(part)
        gc.collect()
        return freed


async def _all_of(waiting: list[Awaitable[Any]]) -> None:
    for result in await asyncio.gather(*map(without_exits, waiting), return_exceptions=True):
        if isinstance(result, Exception):
            log.error("what a job waited for failed; it starts all the same", exc_info=result)


def _collect() -> None:
    gc.collect()
