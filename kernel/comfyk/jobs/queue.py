"""The queue: takes prompts in, has them run, and sees to it that none is lost.

It lives on the app's event loop. Every change is in the store before anybody hears of it. What runs the jobs is an
`Executor`, of which the queue knows the protocol alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any

from comfyk.events import (
    Event,
    EventBus,
    Executed,
    Executing,
    HistoryDeleted,
    JobEnded,
    JobEvent,
    JobQueued,
    QueueChanged,
    now_ms,
)
from comfyk.graph.links import Prompt
from comfyk.graph.validation import check_shape, validate_prompt
from comfyk.hooks import BoundHooks
from comfyk.jobs.ending import ending_of, failure
from comfyk.jobs.executor import Executor, ExecutorDied
from comfyk.jobs.line import Line, OwnLine, SharedLine
from comfyk.jobs.model import Job, JobStatus, Outcome
from comfyk.jobs.store import (
    JobStore,
    LeaseLostError,
    SharedJobStore,
    StoreError,
    UnknownJobError,
)
from comfyk.nodes.registry import NodeRegistry

log = logging.getLogger(__name__)

_STOP_TIMEOUT_S = 10.0
_RETRY_FIRST_S, _RETRY_LAST_S = 0.5, 30.0
_POLL_S = 1.0
"""How often a shared store is asked for jobs that other servers took in."""


@dataclass(slots=True)
class Submission:
    """A prompt that was accepted."""

    job: Job
    node_errors: dict[str, Any]
    """What is wrong behind outputs that will not be executed; empty when all will."""


@dataclass(slots=True, eq=False)
class _Running:
    """A job on its way from the line to the history."""

    job: Job
    begun: bool
    """Whether its attempt is counted and stored."""
    told: dict[str, dict[str, Any]]
    """What its nodes have shown, as the plugins left it."""
    task: asyncio.Task[None] | None = None
    executing: bool = False
    showing: str | None = None
    """The node that clients see as running."""
    cancelled: bool = False
    lost: bool = False
    """Another server has taken it over."""
    waiting: asyncio.Future[Any] | None = None
    """What it waits for before it starts."""
    after: asyncio.Task[None] | None = None
    """An earlier run of the same job, whose lease was lost: it must be over."""


class JobQueue:
    """Jobs that wait, and those that run, as many as the executor has room for. Jobs that ended are in `store`.

    Two things keep the store's commits out of the way without weakening what they promise. A job that comes to an
    idle queue is stored as running at once, so that it costs one commit and not two before it runs. And a job's
    outcome is stored together with the next one's start; the next one runs once both are.
    """

    def __init__(
        self,
        store: JobStore,
        executor: Executor,
        nodes: NodeRegistry,
        events: EventBus,
        hook: BoundHooks,
        max_attempts: int,
    ) -> None:
        self.store = store
        self.paused = False
        self._executor = executor
        self._nodes = nodes
        self._events = events
        self._hook = hook
        self._max_attempts = max_attempts
        self._shared = store if isinstance(store, SharedJobStore) else None
        self._line: Line = OwnLine(store) if self._shared is None else SharedLine(self._shared)
        self._running: dict[str, _Running] = {}
        """The jobs that have room in the executor, and those that are just about to."""
        self._ending: dict[str, _Running] = {}
        """The jobs that have run, and whose outcome is being stored."""
        self._elsewhere: dict[str, Job] = {}
        """Jobs that came in here and that another server may run."""
        self._stopping = False
        self._next_number = 0
        self._wake = asyncio.Event()
        self._waiting: dict[str, list[asyncio.Future[Outcome]]] = {}
        self._workers: list[asyncio.Task[None]] = []
        self._free_requests: list[tuple[bool, bool, asyncio.Future[dict[str, Any]]]] = []
        self._between: list[tuple[Callable[[], Awaitable[Any]], asyncio.Future[Any]]] = []
        self._watches_outputs = hook.implements("comfyk_node_output")
        self._watches_ends = hook.implements("comfyk_job_finished")

    # --- life ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up what was left the last time, and begin to work."""
        self._next_number, given_up = await self._line.load(self._max_attempts)
        for job in given_up:
            await self._give_up(_Running(job, begun=True, told={}))
        if self._line.length:
            log.info("%d jobs are still in the queue from the last time", self._line.length)
        loop = asyncio.get_running_loop()

        def capacity_changed() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nothing is to be run
                loop.call_soon_threadsafe(self._wake.set)

        await self._executor.start(capacity_changed)
        self._workers.append(asyncio.create_task(self._work(), name="comfyk-queue"))
        if self._shared is not None:
            self._workers.append(asyncio.create_task(self._watch(self._shared), name="comfyk-queue-leases"))

    async def stop(self) -> None:
        """Stop working. The running jobs are interrupted and stay in the queue."""
        self._stopping = True
        for running in self._running.values():
            self._interrupt(running)
        tasks = [running.task for running in self._all if running.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_TIMEOUT_S)
        left = list(self._running.values())
        for task in [*tasks, *self._workers]:
            task.cancel()
        await asyncio.gather(*tasks, *self._workers, return_exceptions=True)
        for running in left:
            await self._requeue(running)
        for futures in self._waiting.values():
            for future in futures:
                future.cancel()

    # --- what is in it --------------------------------------------------------------------------------------------

    @property
    def running(self) -> list[Job]:
        """The jobs that run here, with any that is just about to run or has just run."""
        return [running.job for running in self._all]

    @property
    def _all(self) -> list[_Running]:
        return [*self._ending.values(), *self._running.values()]

    @property
    def remaining(self) -> int:
        """How many jobs have not ended."""
        return self._line.length + len(self._running) + len(self._ending)

    async def listing(self, user: str | None = None) -> tuple[list[Job], list[Job]]:
        """The jobs that run, on other servers too, and those that wait, next one first; with `user` only theirs."""
        elsewhere, pending = await self._line.listing(user)
        here = [job for job in self.running if user in (None, job.user)]
        ids = {job.id for job in here}
        return [*here, *(job for job in elsewhere if job.id not in ids)], pending

    def current_node(self, client_id: str) -> tuple[str, str] | None:
        """The id of this client's job and the node shown as running in it, for one that connects anew."""
        for running in self._running.values():
            if running.job.client_id == client_id and running.showing is not None:
                return running.job.id, running.showing
        return None

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
        created = now_ms()
        extra_data = {**(extra_data or {}), "create_time": created}
        prompt = check_shape(prompt)
        self._nodes.apply_replacements(prompt)
        errors = []
        if self._hook.implements("comfyk_validate_prompt"):
            client_id = extra_data.get("client_id")
            errors = await self._hook.comfyk_validate_prompt(
                prompt=prompt, user=user, client_id=client_id, extra_data=extra_data
            )
        valid = await validate_prompt(prompt, self._nodes, targets, errors)
        if number is None:
            number = -self._next_number if front else self._next_number
            self._next_number += 1
        job = Job(
            id=job_id or str(uuid.uuid4()),
            number=number,
            prompt=prompt,
            extra_data=extra_data,
            targets=valid.targets,
            sensitive=sensitive or {},
            user=user,
            created_at=created,
        )
        if self._idle:
            await self._enter(job)
        else:
            await self._line.add(job)
            if self._shared is not None:
                self._elsewhere[job.id] = job
            self._wake.set()
        self._events.emit(JobQueued(job_id=job.id, client_id=job.client_id, user=job.user))
        self._changed()
        return Submission(job, valid.node_errors)

    @property
    def _idle(self) -> bool:
        """Whether a job that comes in need not stand in line."""
        return self._line.length == 0 and self._room > 0

    @property
    def _room(self) -> int:
        """How many jobs may be started now."""
        if self.paused or self._stopping or self._free_requests or self._between:
            return 0
        return self._executor.capacity - len(self._running)

    async def _enter(self, job: Job) -> None:
        """Store a job that need not stand in line, and run it."""
        waiting = self._executor.prepare(job)
        running = self._running[job.id] = _Running(job, begun=waiting is None, told={})
        if waiting is not None:
            running.waiting = asyncio.ensure_future(waiting)
        job.attempts = int(running.begun)
        try:
            await self._line.enter(job, begun=running.begun)
        except BaseException:
            del self._running[job.id]
            self._wake.set()
            raise
        self._set_off(running)

    async def cancel(self, job_id: str) -> JobStatus | None:
        """Take a job out of the queue, or interrupt it. Returns the state it was in, None when it is not here."""
        if await self.delete([job_id]):
            return JobStatus.PENDING
        return JobStatus.IN_PROGRESS if await self.cancel_running(job_id) else None

    async def cancel_running(self, job_id: str) -> bool:
        """Interrupt a job that runs, here or on another server. Returns whether it does."""
        if self.interrupt(job_id):
            return True
        return self._shared is not None and await self._shared.ask_to_cancel(job_id)

    def interrupt(self, job_id: str | None = None) -> bool:
        """Interrupt the jobs that run here, or only this one. Returns whether there was one."""
        found = [running for running in self._running.values() if job_id in (None, running.job.id)]
        for running in found:
            running.cancelled = True
            self._interrupt(running)
        return bool(found)

    def _interrupt(self, running: _Running) -> None:
        if running.executing:
            self._executor.interrupt(running.job.id)
        elif running.waiting is not None:
            running.waiting.cancel()

    async def delete(self, ids: Collection[str] | None, user: str | None = None) -> list[str]:
        """Take waiting jobs out, all of them for None; returns the ids of those that were."""
        jobs = await self._line.remove(ids, user)
        for job in jobs:
            self._elsewhere.pop(job.id, None)
            outcome = Outcome(JobStatus.CANCELLED, None, now_ms())
            if self._watches_ends:
                await self._hook.comfyk_job_finished(job=job, outcome=outcome)
            self._resolve(job, outcome)
        if jobs:
            self._changed()
        return [job.id for job in jobs]

    async def clear(self, user: str | None = None) -> list[str]:
        """Take all waiting jobs out."""
        return await self.delete(None, user)

    async def move(self, job_id: str, *, number: float | None = None, front: bool = False) -> bool:
        """Give a waiting job another place. Returns False when it does not wait (any more)."""
        moved = await self._line.move(job_id, number=number, front=front)
        if moved:
            self._changed()
        return moved

    async def delete_history(self, ids: Collection[str] | None, user: str | None = None) -> None:
        """Forget jobs that have ended, all of them for None."""
        if ids is None:
            await self.store.clear_history(user)
        else:
            await self.store.delete_history(ids, user)
        self._events.emit(HistoryDeleted(ids=None if ids is None else list(ids), user=user))

    def pause(self) -> None:
        """Start no more jobs; those that run go on."""
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        self._wake.set()

    async def wait(self, job_id: str) -> Outcome:
        """How a job of the queue ends. Raises KeyError when it is not in the queue."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(job_id, []).append(future)
        if job_id not in self._running and job_id not in self._ending:
            running, pending = await self.listing()
            known = job_id in self._elsewhere or any(job.id == job_id for job in (*running, *pending))
            if not known and not future.done():
                self._waiting[job_id].remove(future)
                raise KeyError(f"job {job_id} is not in the queue")
        return await future

    async def free(self, *, unload_models: bool, free_memory: bool) -> dict[str, Any]:
        """Free what can be made again. While a job runs it is put off: `{"deferred": True}`."""
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._free_requests.append((unload_models, free_memory, future))
        if self._running or self._ending:
            return {"deferred": True}
        self._wake.set()
        return await future

    async def between_jobs(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Await something while no job runs here; none is started before it is done. Returns its result."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._between.append((work, future))
        self._wake.set()
        return await future

    # --- work ---------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Start jobs while there is room for them."""
        while True:
            self._wake.clear()
            if (self._free_requests or self._between) and not (self._running or self._ending):
                await self._rest()
                continue
            try:
                while self._room > 0 and (job := await self._line.take()) is not None:
                    self._take_up(job)
            except StoreError as error:
                log.error("no job could be taken from the store, trying again in %.1f s: %s", _POLL_S, error)
                await self._woken(_POLL_S)
                continue
            await self._woken(_POLL_S if self._shared is not None else None)

    def _take_up(self, job: Job) -> None:
        """Run a job that was taken out of the line."""
        # The numbers that servers give go on from each other's.
        self._next_number = max(self._next_number, int(abs(job.number)) + 1)
        self._elsewhere.pop(job.id, None)
        before = self._running.get(job.id)
        if job.id in self._ending or (before is not None and not before.lost):
            return  # this server's own lease ran out, and now it has it again: all goes on
        running = self._running[job.id] = _Running(job, begun=False, told={})
        if before is not None:
            running.after = before.task
        self._set_off(running)

    async def _woken(self, seconds: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)

    def _set_off(self, running: _Running) -> None:
        running.task = asyncio.create_task(self._run(running), name=f"comfyk-job-{running.job.id}")

    async def _run(self, running: _Running) -> None:
        """A job's way from the line to the history."""
        job = running.job
        before = [ending.task for ending in self._ending.values() if ending.task is not None]
        if running.after is not None:
            await asyncio.wait([running.after])
        if job.attempts >= self._max_attempts and not running.begun:
            await self._give_up(running)
            return
        try:
            await self._begin(running)
            if before:  # what ended before is told before
                await asyncio.wait(before)
            if running.lost:
                self._drop(running)
                return
            if self._stopping:
                return
            outcome = await self._execute(running)
        except _NotBegun:
            outcome = Outcome(JobStatus.CANCELLED, None, now_ms())
        except ExecutorDied as error:
            await self._again(running, error)
            return
        except LeaseLostError as error:
            self._drop(running, error)
            return
        except Exception as error:  # a fault of the executor: this job ends, and the queue goes on
            log.exception("the executor failed at job %s", job.id)
            outcome = failure(job, f"The executor failed: {error}", type(error).__name__, now_ms())
        if running.lost:
            self._drop(running)
        elif not (self._stopping and outcome.status is JobStatus.CANCELLED and not running.cancelled):
            await self._end(running, outcome)
        # Otherwise it was interrupted because the server stops: `stop` puts it back.

    async def _begin(self, running: _Running) -> None:
        """Wait for what the job needs, then count and store the attempt. Raises _NotBegun when it was cancelled."""
        if not running.begun:
            if running.waiting is None and (waiting := self._executor.prepare(running.job)) is not None:
                running.waiting = asyncio.ensure_future(waiting)
            if running.waiting is not None:
                self._changed()
                await asyncio.wait([running.waiting])
                running.waiting = None
            if running.lost:
                raise LeaseLostError("the lease ran out while it waited")
            if running.cancelled or self._stopping:
                raise _NotBegun
            running.job.attempts += 1
            await self._durably(lambda: self.store.start(running.job, now_ms()))
            running.begun = True
        self._changed()

    async def _execute(self, running: _Running) -> Outcome:
        if running.cancelled:
            raise _NotBegun
        running.executing = True
        try:
            outcome = await self._executor.run(running.job, self._teller(running))
        finally:
            running.executing = False
            running.showing = None
        for node_id in outcome.outputs:
            if node_id in running.told:
                outcome.outputs[node_id] = running.told[node_id]
        return outcome

    def _teller(self, running: _Running) -> Callable[[Event], None]:
        """What a job's executor reports to."""
        job, emit = running.job, self._events.emit

        def tell(event: Event) -> None:
            event.client_id = job.client_id
            if isinstance(event, JobEvent):
                event.user = job.user
                if isinstance(event, Executing):
                    running.showing = event.display_node
                elif self._watches_outputs and isinstance(event, Executed) and event.output is not None:
                    self._hook.comfyk_node_output(job=job, node_id=event.node, output=event.output)
                    running.told[event.node] = event.output
            emit(event)

        return tell

    async def _end(self, running: _Running, outcome: Outcome) -> None:
        """Store how a job ended, then tell everybody. The next one is started meanwhile."""
        job = running.job
        self._running.pop(job.id, None)
        self._ending[job.id] = running
        self._wake.set()
        last = ending_of(job, outcome)
        try:
            if self._watches_ends:
                await self._hook.comfyk_job_finished(job=job, outcome=outcome)
            await self._durably(lambda: self.store.finish(job, outcome))
        except LeaseLostError as error:
            self._drop(running, error)
            return
        finally:
            self._ending.pop(job.id, None)
            self._wake.set()
        self._events.emit(last)
        self._changed()
        self._events.emit(Executing(client_id=job.client_id, job_id=job.id, user=job.user, node=None))
        self._resolve(job, outcome)

    async def _give_up(self, running: _Running) -> None:
        """The job took the process down each time."""
        job = running.job
        log.error("job %s ended the server process %d times; it failed", job.id, job.attempts)
        await self._end(running, _crashed(job))

    async def _again(self, running: _Running, error: ExecutorDied) -> None:
        """The executor died: the attempt counts, and the job runs again unless there were too many."""
        job = running.job
        log.error("job %s: %s", job.id, error)
        if running.cancelled:
            await self._end(running, Outcome(JobStatus.CANCELLED, None, now_ms()))
        elif job.attempts >= self._max_attempts:
            await self._end(running, _crashed(job, str(error)))
        else:
            try:
                await self._durably(lambda: self._line.give_back(job))
            except LeaseLostError as lost:
                self._drop(running, lost)
                return
            self._running.pop(job.id, None)
            if self._shared is not None:
                self._elsewhere[job.id] = job
            self._wake.set()
            self._changed()

    def _drop(self, running: _Running, error: LeaseLostError | None = None) -> None:
        """Another server runs the job now: what became of it here is void."""
        job = running.job
        log.warning("job %s was lost, another server may run it: %s", job.id, error or "the lease ran out")
        if self._running.get(job.id) is running:
            del self._running[job.id]
        if job.id not in self._running:
            self._elsewhere[job.id] = job
        self._wake.set()
        self._changed()

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

    async def _requeue(self, running: _Running) -> None:
        """The server stopped in good order, which was not the job's fault: it is as if it had not begun."""
        job = running.job
        if not running.begun and self._shared is None:
            return  # it is still pending in the store
        if running.begun:
            job.attempts -= 1
        try:
            await self.store.requeue(job)
        except StoreError as error:
            log.error("job %s runs again at the next start, though the store failed: %s", job.id, error)

    async def _rest(self) -> None:
        """Do what has to be done while no job runs."""
        requests, self._free_requests = self._free_requests, []
        if requests:
            freed = self._executor.free(
                unload_models=any(unload for unload, _, _ in requests),
                free_memory=any(free for _, free, _ in requests),
            )
            await _hand_over(freed, [future for _, _, future in requests])
        while self._between:
            work, done = self._between[0]
            try:
                await _hand_over(work(), [done])
            finally:
                del self._between[0]

    # --- other servers ------------------------------------------------------------------------------------------

    async def _watch(self, store: SharedJobStore) -> None:
        """Renew the leases, and learn what other servers did."""
        renew_every = store.lease_s / 3
        clock = asyncio.get_running_loop().time
        renewed = clock()
        while True:
            await asyncio.sleep(min(_POLL_S, renew_every))
            begun = clock()
            try:
                async with asyncio.timeout_at(max(renewed + store.lease_s, begun + renew_every)):
                    await self._renew(store)
                renewed = begun
            except (StoreError, TimeoutError) as error:
                log.error("the leases on the running jobs could not be renewed: %s", error or "no answer")
                if clock() - renewed > store.lease_s:
                    for running in self._running.values():
                        self._lose(running)
                continue
            try:
                await self._learn_what_ended(store)
                before = self.remaining
                await self._line.refresh(len(self._running) + len(self._ending))
                if self.remaining != before:
                    self._changed()
            except StoreError as error:
                log.error("what other servers did could not be read: %s", error)

    async def _renew(self, store: SharedJobStore) -> None:
        asked = [running for running in self._all if not running.lost]
        # The answer knows nothing of those that are just being stored.
        stored = [running for running in asked if running.task is not None]
        renewal = await store.renew([running.job.id for running in asked])
        for running in stored:
            if self._running.get(running.job.id) is not running:
                continue  # it has run meanwhile
            if running.job.id not in renewal.held:
                self._lose(running)
            elif running.job.id in renewal.to_cancel:
                running.cancelled = True
                self._interrupt(running)

    def _lose(self, running: _Running) -> None:
        running.lost = True
        self._interrupt(running)

    async def _learn_what_ended(self, store: SharedJobStore) -> None:
        """Tell the clients of this server how their jobs ended that another one ran."""
        here = self._running.keys() | self._ending.keys()
        awaited = [job_id for job_id in self._waiting if job_id not in self._elsewhere and job_id not in here]
        asked = [*self._elsewhere, *awaited]
        for job_id in await store.ended(asked) if asked else ():
            detail = await store.get(job_id)
            job = self._elsewhere.pop(job_id, None)
            if job_id in self._running or job_id in self._ending:
                continue
            if detail is not None and detail.outcome is not None:
                outcome = detail.outcome
            else:
                outcome = Outcome(JobStatus.CANCELLED, None, now_ms())
            if job is None:
                self._tell_awaiting(job_id, outcome)
                continue
            if detail is not None and detail.outcome is not None:
                self._events.emit(ending_of(job, outcome))
                self._events.emit(Executing(client_id=job.client_id, job_id=job.id, user=job.user, node=None))
            self._resolve(job, outcome)

    # --- telling ------------------------------------------------------------------------------------------------

    def _changed(self) -> None:
        self._events.emit(QueueChanged(queue_remaining=self.remaining))

    def _resolve(self, job: Job, outcome: Outcome) -> None:
        ran = outcome.finished_at - outcome.started_at if outcome.started_at is not None else None
        self._events.emit(
            JobEnded(
                job_id=job.id,
                client_id=job.client_id,
                user=job.user,
                status=outcome.status.value,
                seconds=None if ran is None else ran / 1000,
            )
        )
        self._tell_awaiting(job.id, outcome)

    def _tell_awaiting(self, job_id: str, outcome: Outcome) -> None:
        for future in self._waiting.pop(job_id, ()):
            if not future.done():
                future.set_result(outcome)


async def _hand_over(work: Awaitable[Any], futures: list[asyncio.Future[Any]]) -> None:
    """Await something for others, who get its result or its exception."""
    try:
        result = await work
    except Exception as error:
        for future in futures:
            if not future.done():
                future.set_exception(error)
        return
    for future in futures:
        if not future.done():
            future.set_result(result)


class _NotBegun(Exception):
    """The job was cancelled, or the server stops, before it began."""


def _crashed(job: Job, why: str = "") -> Outcome:
    """How a job ends that took the process down each time it ran."""
    message = (
        f"The server process ended {job.attempts} times while this job ran, so it is not run again. "
        "Look into the log for a crash or for want of memory, then queue it anew."
    )
    if why:
        message = (
            f"What ran this job died {job.attempts} times, so it is not run again. The last time: {why} "
            "Look into the log for a crash or for want of memory, then queue it anew."
        )
    return failure(job, message, "JobCrashed", now_ms())
