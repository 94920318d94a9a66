"""The queue: takes prompts in, runs them one after another, and sees to it that none is lost.

It lives on the app's event loop. Every change is in the store before anybody hears of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
import uuid
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from comfyk.events import Executing, ExecutionError, JobMessage, QueueChanged, now_ms
from comfyk.graph.links import Prompt
from comfyk.graph.validation import check_shape, validate_prompt
from comfyk.jobs.model import Job, JobStatus, Outcome
from comfyk.jobs.store import JobStore, StoreError, UnknownJobError

if TYPE_CHECKING:
    from comfyk.app import App

log = logging.getLogger(__name__)

_STOP_TIMEOUT_S = 10.0
_RETRY_FIRST_S, _RETRY_LAST_S = 0.5, 30.0


@dataclass(slots=True)
class Submission:
    """A prompt that was accepted."""

    job: Job
    node_errors: dict[str, Any]
    """What is wrong behind outputs that will not be executed; empty when all will."""


class JobQueue:
    """Jobs that wait, and the one that runs. Jobs that ended are in `store`."""

    def __init__(self, app: App, store: JobStore) -> None:
        self.store = store
        self.paused = False
        self._app = app
        self._heap: list[tuple[float, int, str]] = []
        self._pending: dict[str, tuple[tuple[float, int, str], Job]] = {}
        self._running: Job | None = None
        self._cancelled: set[str] = set()
        self._stopping = False
        self._sequence = itertools.count()
        self._next_number = 0
        self._wake = asyncio.Event()
        self._waiting: dict[str, list[asyncio.Future[Outcome]]] = {}
        self._worker: asyncio.Task[None] | None = None
        self._free_requests: list[tuple[bool, bool, asyncio.Future[dict[str, Any]]]] = []

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up what was left the last time, and begin to work."""
        for job in await self.store.unfinished():
            self._next_number = max(self._next_number, int(abs(job.number)) + 1)
            if job.attempts >= self._app.settings.jobs.max_attempts:
                await self.store.finish(job, _crashed(job))
                log.error("job %s ended the server process %d times; it failed", job.id, job.attempts)
            else:
                self._push(job)
        if self._pending:
            log.info("%d jobs are still in the queue from the last time", len(self._pending))
        self._worker = asyncio.create_task(self._work(), name="comfyk-queue")

    async def stop(self) -> None:
        """Stop working. The running job is interrupted and stays in the queue."""
        self._stopping = True
        if self._worker is None:
            return
        if self._running is not None:
            self._app.executor.interrupt()
            await asyncio.wait([self._worker], timeout=_STOP_TIMEOUT_S)
        if not self._worker.done():
            self._worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._worker
        if self._running is not None:
            await self._requeue(self._running)
        for futures in self._waiting.values():
            for future in futures:
                future.cancel()

    # --- what is in it --------------------------------------------------------------------------------------------

    @property
    def running(self) -> list[Job]:
        """The running job, if there is one."""
        return [self._running] if self._running is not None else []

    @property
    def pending(self) -> list[Job]:
        """The jobs that wait, next one first."""
        return [job for _, job in sorted(self._pending.values(), key=lambda item: item[0])]

    @property
    def remaining(self) -> int:
        """How many jobs have not ended."""
        return len(self._pending) + (self._running is not None)

    def current_node(self, client_id: str) -> str | None:
        """The node shown as running to this client, for one that connects anew."""
        run = self._app.executor.current
        return run.report.showing if run is not None and run.job.client_id == client_id else None

    # --- changes --------------------------------------------------------------------------------------------------

    async def submit(
        self,
        prompt: Prompt,
        *,
        extra_data: dict[str, Any] | None = None,
        number: float | None = None,
        front: bool = False,
        targets: Collection[str] | None = None,
        job_id: str | None = None,
        user: str = "default",
        sensitive: dict[str, Any] | None = None,
    ) -> Submission:
        """Validate a prompt and put it into the queue; it is stored durably on return.

        `number` is its place, by default the end of the queue, or the beginning with `front`. `targets` are the
        output nodes to execute, by default all. Raises PromptError when the prompt is refused, DuplicateJobError
        when the id is taken, and StoreError when it cannot be stored.
        """
        prompt = check_shape(prompt)
        self._app.nodes.apply_replacements(prompt)
        errors = self._app.plugins.call("comfyk_validate_prompt", app=self._app, prompt=prompt)
        valid = await validate_prompt(prompt, self._app.nodes, targets, errors)
        if number is None:
            number = -self._next_number if front else self._next_number
            self._next_number += 1
        created = now_ms()
        job = Job(
            id=job_id or str(uuid.uuid4()),
            number=number,
            prompt=prompt,
            extra_data={**(extra_data or {}), "create_time": created},
            targets=valid.targets,
            sensitive=sensitive or {},
            user=user,
            created_at=created,
        )
        await self.store.add(job)
        self._push(job)
        self._changed()
        return Submission(job, valid.node_errors)

    async def cancel(self, job_id: str) -> JobStatus | None:
        """Take a job out of the queue, or interrupt it. Returns the state it was in, None when it is not here."""
        if await self.delete([job_id]):
            return JobStatus.PENDING
        return JobStatus.IN_PROGRESS if self.interrupt(job_id) else None

    def interrupt(self, job_id: str | None = None) -> bool:
        """Interrupt the running job (if it is this one). Returns whether there was one."""
        if self._running is None or (job_id is not None and self._running.id != job_id):
            return False
        self._cancelled.add(self._running.id)
        self._app.executor.interrupt()
        return True

    async def delete(self, ids: Collection[str], user: str | None = None) -> list[str]:
        """Take waiting jobs out; returns the ids of those that were."""
        jobs = [
            entry[1]
            for job_id in dict.fromkeys(ids)
            if (entry := self._pending.get(job_id)) is not None and user in (None, entry[1].user)
        ]
        for job in jobs:
            del self._pending[job.id]
        try:
            await self.store.remove([job.id for job in jobs])
        except StoreError:
            for job in jobs:
                self._push(job)
            raise
        if jobs:
            for job in jobs:
                self._resolve(job.id, Outcome(JobStatus.CANCELLED, None, now_ms()))
            self._changed()
        return [job.id for job in jobs]

    async def clear(self, user: str | None = None) -> list[str]:
        """Take all waiting jobs out."""
        return await self.delete(list(self._pending), user)

    async def move(self, job_id: str, *, number: float | None = None, front: bool = False) -> bool:
        """Give a waiting job another place. Returns False when it does not wait (any more)."""
        entry = self._pending.get(job_id)
        if entry is None:
            return False
        job = entry[1]
        if number is None:
            others = [key[0] for key, other in self._pending.values() if other is not job]
            number = (min(others, default=0) - 1) if front else (max(others, default=0) + 1)
        before, job.number = job.number, number
        try:
            await self.store.renumber(job)
        except StoreError:
            job.number = before
            raise
        if job_id in self._pending:
            self._push(job)
        self._changed()
        return True

    def pause(self) -> None:
        """Start no more jobs; the running one goes on."""
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        self._wake.set()

    async def wait(self, job_id: str) -> Outcome:
        """How a job of the queue ends. Raises KeyError when it is not in the queue."""
        if job_id not in self._pending and (self._running is None or self._running.id != job_id):
            raise KeyError(f"job {job_id} is not in the queue")
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(job_id, []).append(future)
        return await future

    async def free(self, *, unload_models: bool, free_memory: bool) -> dict[str, Any]:
        """Free what can be made again. While a job runs it is put off: `{"deferred": True}`."""
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._free_requests.append((unload_models, free_memory, future))
        if self._running is not None:
            return {"deferred": True}
        self._wake.set()
        return await future

    # --- work -----------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while not self._stopping:
            await self._free_memory()
            job = None if self.paused else self._pop()
            if job is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            self._running = job
            job.attempts += 1
            run = self._app.executor.prepare(job)
            await self._durably(lambda job=job: self.store.start(job, now_ms()))
            self._changed()
            if self._stopping:
                return  # `stop` puts it back
            await self._app.executor.run(run)
            if (
                self._stopping
                and job.id not in self._cancelled
                and run.report.outcome.status is JobStatus.CANCELLED
            ):
                return  # interrupted because the server stops: `stop` puts it back
            outcome = run.report.outcome
            await self._durably(lambda job=job, outcome=outcome: self.store.finish(job, outcome))
            self._running = None
            self._cancelled.discard(job.id)
            self._end(job, run.report.last, outcome)

    def _end(self, job: Job, last: JobMessage | None, outcome: Outcome) -> None:
        """Tell everybody that a job has ended."""
        if last is not None:
            self._app.events.emit(last)
        self._changed()
        self._app.events.emit(Executing(client_id=job.client_id, job_id=job.id, node=None))
        self._resolve(job.id, outcome)

    async def _durably(self, change: Callable[[], Awaitable[None]]) -> None:
        """Make a change in the store, however long the store needs to get well again: a job is not lost."""
        delay = _RETRY_FIRST_S
        while True:
            try:
                await change()
                return
            except UnknownJobError as error:
                # A change that reported a failure had been made after all (a connection lost at its commit).
                log.warning("%s", error)
                return
            except StoreError as error:
                log.error("the job store failed, trying again in %.1f s: %s", delay, error)
            await asyncio.sleep(delay)
            delay = min(delay * 2, _RETRY_LAST_S)

    async def _requeue(self, job: Job) -> None:
        job.attempts -= 1  # the server stopped in good order: that was not the job's fault
        try:
            await self.store.requeue(job)
        except StoreError as error:
            log.error("job %s runs again at the next start, though the store failed: %s", job.id, error)

    async def _free_memory(self) -> None:
        requests, self._free_requests = self._free_requests, []
        if not requests:
            return
        freed = await self._app.executor.free(
            unload_models=any(unload for unload, _, _ in requests),
            free_memory=any(free for _, free, _ in requests),
        )
        for _, _, future in requests:
            if not future.done():
                future.set_result(freed)

    def _push(self, job: Job) -> None:
        # A job that was running when the process ended comes before all others.
        place = float("-inf") if job.attempts else job.number
        key = (place, next(self._sequence), job.id)
        self._pending[job.id] = (key, job)
        heapq.heappush(self._heap, key)
        self._wake.set()

    def _pop(self) -> Job | None:
        while self._heap:
            key = heapq.heappop(self._heap)
            entry = self._pending.get(key[2])
            if entry is not None and entry[0] == key:  # else it was moved or taken out
                return self._pending.pop(key[2])[1]
        return None

    def _changed(self) -> None:
        self._app.events.emit(QueueChanged(queue_remaining=self.remaining))

    def _resolve(self, job_id: str, outcome: Outcome) -> None:
        for future in self._waiting.pop(job_id, ()):
            if not future.done():
                future.set_result(outcome)


def _crashed(job: Job) -> Outcome:
    """How a job ends that took the process down each time it ran."""
    message = ExecutionError(
        client_id=job.client_id,
        job_id=job.id,
        node_id=None,
        node_type=None,
        exception_message=(
            f"The server process ended {job.attempts} times while this job ran, so it is not run again. "
            "Look into the log for a crash or for want of memory, then queue it anew."
        ),
        exception_type="JobCrashed",
    )
    return Outcome(JobStatus.FAILED, None, message.timestamp, messages=[(message.type, message.data())])
