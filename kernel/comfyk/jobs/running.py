"""The jobs that run here: each on its way from the line to the history, in a task of its own.

They are given to an `Executor`, of which this knows the protocol alone.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from comfyk.event_bus import EventBus
from comfyk.events import QueueChanged, now_ms
from comfyk.exits import without_exits
from comfyk.foreign_code import describe, is_ours, text_of
from comfyk.hooks import BoundHooks
from comfyk.jobs.ending import Endings, crashed, ending_of, failure
from comfyk.jobs.executor import Executor, ExecutorDied
from comfyk.jobs.line import Line
from comfyk.jobs.model import Job, JobStatus, Outcome, QueuedJob
from comfyk.jobs.packing import queued, unread
from comfyk.jobs.reports import Reports, Running
from comfyk.jobs.store import (
    DuplicateJobError,
    JobStore,
    LeaseLostError,
    SharedJobStore,
    StoreError,
    UnknownJobError,
    UnreadableJobError,
)

log = logging.getLogger(__name__)

_STOP_TIMEOUT_S = 10.0
_RETRY_FIRST_S, _RETRY_LAST_S = 0.5, 30.0


class RunningJobs:
    """The jobs that have room in the executor, and those that have run and whose outcome is being stored.

    A job's outcome is stored together with the next one's start; the next one runs once both are.
    """

    def __init__(
        self,
        store: JobStore,
        line: Line,
        executor: Executor,
        events: EventBus,
        hook: BoundHooks,
        endings: Endings,
        max_attempts: int,
        room_made: Callable[[], None],
    ) -> None:
        """`room_made` is called when another job may be started."""
        self.running: dict[str, Running] = {}
        """Those that have room in the executor, and those that are just about to."""
        self.ending: dict[str, Running] = {}
        self.elsewhere: dict[str, QueuedJob] = {}
        """Jobs that came in here and that another server may run."""
        self.stopping = False
        self._store = store
        self._shared = isinstance(store, SharedJobStore)
        self._line = line
        self._executor = executor
        self._events = events
        self._hook = hook
        self._endings = endings
        self._max_attempts = max_attempts
        self._room_made = room_made
        self._reports = Reports(events, hook)
        self.watches_ends = hook.implements("comfyk_job_finished")
        """Whether anybody wants to hear of them, each whole."""

    def __len__(self) -> int:
        return len(self.running) + len(self.ending)

    def all(self) -> list[Running]:
        """Those that have run before those that run."""
        return [*self.ending.values(), *self.running.values()]

    def has(self, job_id: str) -> bool:
        return job_id in self.running or job_id in self.ending

    def changed(self) -> None:
        """Tell how many jobs have not ended."""
        self._events.emit(QueueChanged(queue_remaining=self._line.length + len(self)))

    # --- beginning ----------------------------------------------------------------------------------------------

    async def enter(self, job: Job) -> None:
        """Store a job that need not stand in line, as running if nothing keeps it from it, and run it."""
        if self.has(job.id):
            raise DuplicateJobError.of(job.id)
        running = self.running[job.id] = Running(job, begun=False, told={})
        try:
            waiting = self._executor.prepare(job)
            running.waiting = None if waiting is None else _awaited(waiting)
        except BaseException as error:
            if is_ours(error):
                del self.running[job.id]
                raise
            # It is asked again when the job begins, and fails it then, as any other.
            log.debug("job %s is not prepared: %s", job.id, describe(error))
        else:
            running.begun = waiting is None
        job.attempts = int(running.begun)
        try:
            await self._line.enter(job, begun=running.begun)
        except BaseException:
            del self.running[job.id]
            if running.waiting is not None:
                running.waiting.cancel()
            self._room_made()
            raise
        self._set_off(running)

    def take_up(self, job: Job) -> None:
        """Run a job that was taken out of the line."""
        self.elsewhere.pop(job.id, None)
        before = self.running.get(job.id)
        if job.id in self.ending or (before is not None and not before.lost):
            return  # this server's own lease ran out, and now it has it again: all goes on
        running = self.running[job.id] = Running(job, begun=False, told={})
        if before is not None:
            running.after = before.task
        self._set_off(running)

    def _set_off(self, running: Running) -> None:
        running.task = asyncio.create_task(self._run(running), name=f"comfyk-job-{running.job.id}")

    # --- interrupting -------------------------------------------------------------------------------------------

    def cancel(self, running: Running) -> None:
        """Somebody wants the job to end."""
        running.cancelled = True
        self._interrupt(running)

    def lose(self, running: Running) -> None:
        """Another server may have the job by now."""
        running.lost = True
        self._interrupt(running)

    def _interrupt(self, running: Running) -> None:
        if running.executing:
            try:
                self._executor.interrupt(running.job.id)
            except Exception:  # a fault of the executor: who asked can do nothing about it
                log.exception("the executor failed to interrupt job %s, which goes on", running.job.id)
        elif running.waiting is not None:
            running.waiting.cancel()

    async def stop(self) -> None:
        """Interrupt all, and put them back into the line."""
        self.stopping = True
        for running in self.running.values():
            self._interrupt(running)
        tasks = [running.task for running in self.all() if running.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_TIMEOUT_S)
        left = list(self.running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for running in left:
            await self._requeue(running)

    # --- a job's way --------------------------------------------------------------------------------------------

    async def _run(self, running: Running) -> None:
        """A job's way from the line to the history."""
        job = running.job
        before = [ending.task for ending in self.ending.values() if ending.task is not None]
        if running.after is not None:
            await asyncio.wait([running.after])
        if job.attempts >= self._max_attempts and not running.begun:
            await self.give_up(job)
            return
        try:
            await self._begin(running)
            if before:  # what ended before is told before
                await asyncio.wait(before)
            if running.lost:
                self._drop(running)
                return
            if self.stopping:
                return
            outcome = await self._execute(running)
        except _NotBegun:
            outcome = Outcome(JobStatus.CANCELLED, None, now_ms())
        except ExecutorDied as error:
            if running.lost:
                self._drop(running)
            elif not self.stopping:  # else `stop` puts it back, and no attempt counts
                await self._again(running, error)
            return
        except LeaseLostError as error:
            self._drop(running, error)
            return
        except BaseException as error:  # a fault of the executor: this job ends, and the queue goes on
            if is_ours(error):
                raise
            log.error("the executor failed at job %s", job.id, exc_info=error)
            outcome = failure(job, f"The executor failed: {text_of(error)}", type(error).__name__, now_ms())
        if running.lost:
            self._drop(running)
        elif not (self.stopping and outcome.status is JobStatus.CANCELLED and not running.cancelled):
            await self._end(running, outcome)
        # Otherwise it was interrupted because the server stops: `stop` puts it back.

    async def _begin(self, running: Running) -> None:
        """Wait for what the job needs, then count and store the attempt. Raises _NotBegun when it was cancelled."""
        if not running.begun:
            if running.waiting is None and (waiting := self._executor.prepare(running.job)) is not None:
                running.waiting = _awaited(waiting)
            if running.waiting is not None:
                self.changed()
                waited = running.waiting
                await asyncio.wait([waited])
                running.waiting = None
                if not waited.cancelled() and (error := waited.exception()) is not None:
                    raise error
            if running.lost:
                raise LeaseLostError("the lease ran out while it waited")
            if running.cancelled or self.stopping:
                raise _NotBegun
            running.job.attempts += 1
            await self._durably(lambda: self._store.start(running.job, now_ms()))
            running.begun = True
        self.changed()

    async def _execute(self, running: Running) -> Outcome:
        if running.cancelled:
            raise _NotBegun
        running.executing = True
        try:
            outcome = await self._executor.run(running.job, self._reports.of(running))
        finally:
            running.executing = False
            running.showing = None
        if not isinstance(outcome, Outcome) or not isinstance(outcome.status, JobStatus):
            raise TypeError(f"it returned {outcome!r:.80}, which is no Outcome with a JobStatus")
        if not outcome.status.finished:
            raise ValueError(f"it returned an outcome that is {outcome.status}, which is no end")
        for node_id in outcome.outputs:
            if node_id in running.told:
                outcome.outputs[node_id] = running.told[node_id]
        ending_of(running.job, outcome)  # it is stored with the message that says how it ended
        return outcome

    async def _end(self, running: Running, outcome: Outcome) -> None:
        """Store how a job ended, then tell everybody. The next one is started meanwhile."""
        job = running.job
        self.running.pop(job.id, None)
        self.ending[job.id] = running
        self._room_made()
        event = ending_of(job, outcome)
        try:
            if self.watches_ends:
                await self._hook.comfyk_job_finished(job=job, outcome=_shown(outcome))
            try:
                await self._durably(lambda: self._store.finish(job, outcome))
            except StoreError:
                raise
            except Exception as error:  # what it made cannot be written: it ends all the same
                log.exception("the outcome of job %s cannot be stored", job.id)
                message = f"What the job made cannot be stored: {error}"
                outcome = failure(job, message, type(error).__name__, now_ms())
                event = ending_of(job, outcome)
                await self._durably(lambda: self._store.finish(job, outcome))
        except LeaseLostError as error:
            self._drop(running, error)
            return
        finally:
            self.ending.pop(job.id, None)
            self._room_made()
        self._endings.tell_clients(event, self.changed)
        # Clients wait for this: it goes out before anything else is done about the job.
        asyncio.get_running_loop().call_soon(self._endings.tell, job, outcome)

    async def give_up(self, job: Job) -> None:
        """The job took the process down each time."""
        log.error(
            "job %s was begun %d times, and each time what ran it died; it failed", job.id, job.attempts
        )
        await self._end(Running(job, begun=True, told={}), crashed(job))

    async def set_aside(self, error: UnreadableJobError) -> None:
        """A job that cannot be read: it fails, and whoever waits for it hears why."""
        job = error.job
        log.error("%s It is set aside, as failed; `comfyk doctor` shows it", error)
        message = f"The server cannot read what it had stored of this job, so it was not run. {error} Queue it anew."
        outcome = failure(job, message, "UnreadableJob", now_ms())
        event = ending_of(job, outcome)
        if self.watches_ends:
            await self._hook.comfyk_job_finished(job=unread(job), outcome=_shown(outcome))
        try:
            await self._store.set_aside(job, outcome)
        except StoreError as reason:  # it may be the database itself that is damaged there
            log.error("job %s could not be put into the history, where it belongs: %s", job.id, reason)
        self.elsewhere.pop(job.id, None)
        self._endings.tell_clients(event, self.changed)
        self._endings.tell(job, outcome)

    async def _again(self, running: Running, error: ExecutorDied) -> None:
        """The executor died: the attempt counts, and the job runs again unless there were too many."""
        job = running.job
        log.error("job %s: %s", job.id, error)
        if running.cancelled:
            await self._end(running, Outcome(JobStatus.CANCELLED, None, now_ms()))
        elif job.attempts >= self._max_attempts:
            await self._end(running, crashed(job, str(error)))
        else:
            try:
                await self._durably(lambda: self._line.give_back(job))
            except LeaseLostError as lost:
                self._drop(running, lost)
                return
            if self.running.get(job.id) is running:
                del self.running[job.id]
            if self._shared:
                self.elsewhere[job.id] = queued(job)
            self._room_made()
            self.changed()

    def _drop(self, running: Running, error: LeaseLostError | None = None) -> None:
        """Another server runs the job now: what became of it here is void."""
        job = running.job
        log.warning("job %s was lost, another server may run it: %s", job.id, error or "the lease ran out")
        if self.running.get(job.id) is running:
            del self.running[job.id]
        if job.id not in self.running:
            self.elsewhere[job.id] = queued(job)
        self._room_made()
        self.changed()

    async def _durably(self, change: Callable[[], Awaitable[None]]) -> None:
        """Make a change in the store, however long the store needs to get well again: a job is not lost."""
        delay = _RETRY_FIRST_S
        while True:
            try:
                await change()
                return
            except LeaseLostError:
                raise
            except UnknownJobError as error:
                # A change that reported a failure had been made after all (a connection lost at its commit).
                log.warning("%s", error)
                return
            except StoreError as error:
                log.error("the job store failed, trying again in %.1f s: %s", delay, error)
            await asyncio.sleep(delay)
            delay = min(delay * 2, _RETRY_LAST_S)

    async def _requeue(self, running: Running) -> None:
        """The server stopped in good order, which was not the job's fault: it is as if it had not begun."""
        job = running.job
        if not running.begun and not self._shared:
            return  # it is still pending in the store
        if running.begun:
            job.attempts -= 1
        try:
            await self._store.requeue(job)
        except StoreError as error:
            log.error("job %s runs again at the next start, though the store failed: %s", job.id, error)

    async def end_waiting(self, job: QueuedJob, whole: Job | None = None) -> None:
        """A job that waited was taken out; `whole` is for those who watch the ends of jobs."""
        self.elsewhere.pop(job.id, None)
        outcome = Outcome(JobStatus.CANCELLED, None, now_ms())
        if self.watches_ends:
            await self._hook.comfyk_job_finished(job=whole or unread(job), outcome=_shown(outcome))
        self._endings.tell(whole or job, outcome)


def _shown(outcome: Outcome) -> Outcome:
    """How a job ended, for those who hear of it: what they do to it changes nothing."""
    return replace(
        outcome, outputs=dict(outcome.outputs), meta=dict(outcome.meta), messages=list(outcome.messages)
    )


def _awaited(waiting: Any) -> asyncio.Future[Any]:
    if not inspect.isawaitable(waiting):
        raise TypeError(f"the executor's prepare returned {waiting!r:.80}, and an awaitable is required")
    return asyncio.ensure_future(without_exits(waiting))


class _NotBegun(Exception):
    """The job was cancelled, or the server stops, before it began."""
