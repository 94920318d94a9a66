"""The queue: takes prompts in, runs them one after another, and sees to it that none is lost.

It lives on the app's event loop. Every change is in the store before anybody hears of it.
"""

from __future__ import annotations

import asyncio
import contextlib
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
from comfyk.jobs.waiting import WaitingJobs

if TYPE_CHECKING:
    from comfyk.app import App
    from comfyk.execution.run import JobRun

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
    """Jobs that wait, and the one that runs. Jobs that ended are in `store`.

    Two things keep the store's commits out of the way without weakening what they promise. A job that comes to an
    idle queue is stored as running at once, so that it costs one commit and not two before it runs. And a job's
    outcome is stored together with the next one's start; the next one runs once both are.
    """

    def __init__(self, app: App, store: JobStore) -> None:
        self.store = store
        self.paused = False
        self._app = app
        self._pending = WaitingJobs()
        self._entering: Job | None = None
        """A job that is being stored as running; while there is one, no other is taken up."""
        self._entered: Job | None = None
        """That job once it is stored."""
        self._running: Job | None = None
        self._ending: Job | None = None
        """A job that has run, and whose outcome is being stored."""
        self._cancelled: set[str] = set()
        self._stopping = False
        self._next_number = 0
        self._wake = asyncio.Event()
        self._waiting: dict[str, list[asyncio.Future[Outcome]]] = {}
        self._worker: asyncio.Task[None] | None = None
        self._free_requests: list[tuple[bool, bool, asyncio.Future[dict[str, Any]]]] = []

    # --- life ---------------------------------------------------------------------------------------------------

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
        self._wake.set()
        self._app.executor.interrupt()
        await asyncio.wait([self._worker], timeout=_STOP_TIMEOUT_S)
        self._worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._worker
        for job in self.running:
            await self._requeue(job)
        for futures in self._waiting.values():
            for future in futures:
                future.cancel()

    # --- what is in it --------------------------------------------------------------------------------------------

    @property
    def running(self) -> list[Job]:
        """The running job, if there is one, and any that is just about to run or has just run."""
        return [job for job in (self._ending, self._running, self._entered, self._entering) if job]

    @property
    def pending(self) -> list[Job]:
        """The jobs that wait, next one first."""
        return self._pending.in_order()

    @property
    def remaining(self) -> int:
        """How many jobs have not ended."""
        return len(self._pending) + len(self.running)

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
        if self._idle:
            await self._enter(job)
        else:
            await self.store.add(job)
            self._push(job)
        log.info("got prompt %s", job.id)
        self._changed()
        return Submission(job, valid.node_errors)

    @property
    def _idle(self) -> bool:
        return not (self._pending or self.running or self.paused or self._stopping)

    async def _enter(self, job: Job) -> None:
        """Store a job as running, for the worker to take up."""
        job.attempts = 1
        self._entering = job
        try:
            await self.store.add(job, started_at=now_ms())
            self._entered = job
        finally:
            self._entering = None
            self._wake.set()

    async def cancel(self, job_id: str) -> JobStatus | None:
        """Take a job out of the queue, or interrupt it. Returns the state it was in, None when it is not here."""
        if await self.delete([job_id]):
            return JobStatus.PENDING
        return JobStatus.IN_PROGRESS if self.interrupt(job_id) else None

    def interrupt(self, job_id: str | None = None) -> bool:
        """Interrupt the running job (if it is this one). Returns whether there was one."""
        job = self._running or self._entered or self._entering
        if job is None or (job_id is not None and job.id != job_id):
            return False
        self._cancelled.add(job.id)
        if job is self._running:
            self._app.executor.interrupt()
        return True

    async def delete(self, ids: Collection[str], user: str | None = None) -> list[str]:
        """Take waiting jobs out; returns the ids of those that were."""
        jobs = [
            job
            for job_id in dict.fromkeys(ids)
            if (job := self._pending.get(job_id)) is not None and user in (None, job.user)
        ]
        for job in jobs:
            self._pending.remove(job.id)
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
        return await self.delete(self._pending.ids(), user)

    async def move(self, job_id: str, *, number: float | None = None, front: bool = False) -> bool:
        """Give a waiting job another place. Returns False when it does not wait (any more)."""
        job = self._pending.get(job_id)
        if job is None:
            return False
        if number is None:
            number = self._pending.place_beyond(job, front=front)
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
        if job_id not in self._pending and all(job.id != job_id for job in self.running):
            raise KeyError(f"job {job_id} is not in the queue")
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(job_id, []).append(future)
        return await future

    async def free(self, *, unload_models: bool, free_memory: bool) -> dict[str, Any]:
        """Free what can be made again. While a job runs it is put off: `{"deferred": True}`."""
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._free_requests.append((unload_models, free_memory, future))
        if self.running:
            return {"deferred": True}
        self._wake.set()
        return await future

    # --- work ---------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        ending: asyncio.Task[None] | None = None
        try:
            while not self._stopping:
                self._wake.clear()
                job = None if self._free_requests else self._take()
                if job is None:
                    if ending is not None:
                        await ending
                        ending = None
                    if self._free_requests:
                        await self._free_memory()
                    else:
                        await self._wake.wait()
                    continue
                run = await self._begin(job)
                if ending is not None:
                    await ending
                    ending = None
                if self._stopping:
                    return  # `stop` puts it back
                try:
                    await self._app.executor.run(run)
                except Exception as error:  # a fault of the executor: this job ends, and the queue goes on
                    run.report.failed(None, error)
                outcome = run.report.outcome
                if self._stopping and outcome.status is JobStatus.CANCELLED and job.id not in self._cancelled:
                    return  # interrupted because the server stops: `stop` puts it back
                self._running, self._ending = None, job
                ending = asyncio.create_task(self._end(job, run.report.last, outcome))
        finally:
            if ending is not None:
                await ending

    def _take(self) -> Job | None:
        """The job to run now."""
        if self._entered is not None or self._entering is not None:
            return self._entered
        return None if self.paused else self._pending.pop()

    async def _begin(self, job: Job) -> JobRun:
        """Make a job the running one, in the store too."""
        self._running = job
        run = self._app.executor.prepare(job)
        if job.id in self._cancelled:
            run.interrupt()
        if job is self._entered:
            self._entered = None
        else:
            job.attempts += 1
            await self._durably(lambda: self.store.start(job, now_ms()))
        self._changed()
        return run

    async def _end(self, job: Job, last: JobMessage | None, outcome: Outcome) -> None:
        """Store how a job ended, then tell everybody."""
        await self._durably(lambda: self.store.finish(job, outcome))
        self._ending = None
        self._cancelled.discard(job.id)
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
        self._pending.push(job)
        self._wake.set()

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
