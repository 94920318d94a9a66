"""The queue: takes prompts in, has them run, and sees to it that none is lost.

It lives on the app's event loop. Every change is in the store before anybody hears of it. Jobs that wait are in a
`Line`, those that run in `RunningJobs`, those that ended in the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from comfyk.event_bus import EventBus
from comfyk.events import HistoryDeleted, JobQueued, now_ms
from comfyk.folders import Folders
from comfyk.foreign_code import watch
from comfyk.graph.validation import MAX_NODES, PromptError, check_shape, validate_prompt
from comfyk.hooks import BoundHooks
from comfyk.jobs.ending import Endings
from comfyk.jobs.executor import Executor
from comfyk.jobs.files import remove, written_files
from comfyk.jobs.line import Line, OwnLine, SharedLine
from comfyk.jobs.model import Job, JobStatus, Outcome, QueuedJob
from comfyk.jobs.other_servers import POLL_S, OtherServers
from comfyk.jobs.packing import queued
from comfyk.jobs.parts import parts_of, read_bodies, read_whole
from comfyk.jobs.running import RunningJobs
from comfyk.jobs.store import JobStore, SharedJobStore, StoreError, UnreadableJobError
from comfyk.nodes.links import Prompt
from comfyk.nodes.registry import NodeRegistry
from comfyk.wire import loads_anything

log = logging.getLogger(__name__)

_FARTHEST = 1e15
"""The largest `number` of a job."""
MAX_WAITING = 1024 * 1_000_000
"""Bytes that the jobs which wait may take up together."""


@dataclass(slots=True)
class Submission:
    """A prompt that was accepted."""

    job: Job
    node_errors: dict[str, Any]
    """What is wrong behind outputs that will not be executed; empty when all will."""


class JobQueue:
    """Jobs that wait, and those that run, as many as the executor has room for. Jobs that ended are in `store`.

    A job that comes when nobody waits and there is room is stored as running at once, so that it costs one commit and
    not two before it runs.
    """

    def __init__(
        self,
        store: JobStore,
        executor: Executor,
        nodes: NodeRegistry,
        events: EventBus,
        hook: BoundHooks,
        max_attempts: int,
        max_nodes: int = MAX_NODES,
        nodes_known: Callable[[], Awaitable[None]] | None = None,
        max_waiting: int = MAX_WAITING,
        folders: Folders | None = None,
    ) -> None:
        """`nodes_known` returns when all nodes are registered: prompts wait for it. `folders`: where jobs write."""
        self.store = store
        self.paused = False
        self._executor = executor
        self._nodes = nodes
        self._events = events
        self._hook = hook
        self._max_attempts = max_attempts
        self._max_nodes = max_nodes
        self._nodes_known = nodes_known
        self._folders = folders
        self._shared = store if isinstance(store, SharedJobStore) else None
        self._wake = asyncio.Event()
        self._line: Line = (
            OwnLine(store, max_waiting) if self._shared is None else SharedLine(self._shared, max_waiting)
        )
        self._endings = Endings(events)
        self._jobs = RunningJobs(
            store, self._line, executor, events, hook, self._endings, max_attempts, self._room_made
        )
        self._next_number = 0
        self._started = False
        self._workers: list[asyncio.Task[None]] = []
        self._free_requests: list[tuple[bool, bool, asyncio.Future[dict[str, Any]]]] = []
        self._between: list[tuple[Callable[[], Awaitable[Any]], asyncio.Future[Any]]] = []
        self._resting: set[asyncio.Future[Any]] = set()
        """What those wait for who called `between_jobs`, also while it is done."""

    # --- life ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up what was left the last time, and begin to work."""
        self._next_number, given_up = await self._line.load(self._max_attempts)
        for waiting in given_up:
            try:
                await self._jobs.give_up(await self.store.read(waiting))
            except UnreadableJobError as error:
                await self._jobs.set_aside(error)
        if self._line.length:
            log.info("%d jobs are still in the queue from the last time", self._line.length)
        loop = asyncio.get_running_loop()

        def capacity_changed() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nothing is to be run
                loop.call_soon_threadsafe(self._wake.set)

        await self._executor.start(capacity_changed)
        self._started = True
        self._workers.append(asyncio.create_task(self._work(), name="comfyk-queue"))
        if self._shared is not None:
            others = OtherServers(self._shared, self._line, self._jobs, self._endings)
            self._workers.append(asyncio.create_task(others.watch(), name="comfyk-queue-leases"))

    async def stop(self) -> None:
        """Stop working. The running jobs are interrupted and stay in the queue."""
        await self._jobs.stop()
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self._endings.cancel()
        for future in [*(future for _, _, future in self._free_requests), *self._resting]:
            future.cancel()  # nobody is left who would do what they wait for

    # --- what is in it --------------------------------------------------------------------------------------------

    @property
    def running(self) -> list[Job]:
        """The jobs that run here, with any that is just about to run or has just run."""
        return [running.job for running in self._jobs.all()]

    @property
    def remaining(self) -> int:
        """How many jobs have not ended."""
        return self._line.length + len(self._jobs)

    async def listing(self, user: str | None = None) -> tuple[list[QueuedJob], list[QueuedJob]]:
        """The jobs that run, on other servers too, and those that wait, next one first; with `user` only theirs.

        What they run is not read: see `bodies`.
        """
        elsewhere, pending = await self._line.listing(user)
        here = [queued(job) for job in self.running if user in (None, job.user)]
        ids = {job.id for job in here}
        return [*here, *(job for job in elsewhere if job.id not in ids)], pending

    def bodies(self, jobs: Sequence[QueuedJob]) -> AsyncIterator[list[tuple[QueuedJob, bytes]]]:
        """What jobs of the listing run, as the JSON `[prompt, extra data, targets]`, in their order.

        It comes in parts of about a megabyte (none is cut), so that memory does not grow with the queue. A job that
        has ended meanwhile is left out.
        """
        return read_bodies(self.store, self._line, {job.id: job for job in self.running}, jobs)

    def current_node(self, client_id: str) -> tuple[str, str] | None:
        """The id of this client's job and the node shown as running in it, for one that connects anew."""
        for running in self._jobs.running.values():
            if running.job.client_id == client_id and running.showing is not None:
                return running.job.id, running.showing
        return None

    async def wait(self, job_id: str) -> Outcome:
        """How a job of the queue ends. Raises KeyError when it is not in the queue.

        It costs the same however long the queue is, and leaves nothing behind when it is cancelled.
        """
        future = self._endings.expect(job_id)
        try:
            if not (
                self._here(job_id) or await self._line.holds(job_id) or self._here(job_id) or future.done()
            ):
                raise KeyError(f"job {job_id} is not in the queue")
            return await future
        finally:
            self._endings.expect_no_more(job_id, future)

    def _here(self, job_id: str) -> bool:
        """Whether the job is on its way on this server, or came in here and runs on another."""
        return self._jobs.has(job_id) or job_id in self._jobs.elsewhere

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
        when the id is taken, QueueFullError when too much waits, and StoreError when it cannot be stored.
        """
        _check_number(number)
        if (
            self._nodes_known is not None and self._workers
        ):  # else a plugin is starting: packs are loaded after it
            await self._nodes_known()
        created = now_ms()
        extra_data = {**(extra_data or {}), "create_time": created}
        prompt = check_shape(prompt, self._max_nodes)
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
            await self._jobs.enter(job)
        else:
            await self._line.add(job)
            if self._shared is not None:
                self._jobs.elsewhere[job.id] = queued(job)
            self._wake.set()
        self._events.emit(JobQueued(job_id=job.id, client_id=job.client_id, user=job.user))
        self._jobs.changed()
        return Submission(job, valid.node_errors)

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
        found = [running for running in self._jobs.running.values() if job_id in (None, running.job.id)]
        for running in found:
            self._jobs.cancel(running)
        return bool(found)

    async def delete(self, ids: Collection[str] | None, user: str | None = None) -> list[str]:
        """Take waiting jobs out, all of them for None; returns the ids of those that were."""
        if not self._jobs.watches_ends:
            return await self._delete(ids, user)
        _, pending = await self._line.listing(user)
        wanted = None if ids is None else set(ids)
        removed: list[str] = []
        for part in parts_of([job for job in pending if wanted is None or job.id in wanted]):
            whole = await read_whole(self.store, part)
            removed += await self._delete([job.id for job in part], user, whole)
        return removed

    async def _delete(
        self, ids: Collection[str] | None, user: str | None, whole: Mapping[str, Job] = MappingProxyType({})
    ) -> list[str]:
        try:
            jobs = await self._line.remove(ids, user)
        except StoreError:
            self._wake.set()  # they wait as before; there may be room by now
            raise
        for job in jobs:
            await self._jobs.end_waiting(job, whole.get(job.id))
        if jobs:
            self._jobs.changed()
        return [job.id for job in jobs]

    async def clear(self, user: str | None = None) -> list[str]:
        """Take all waiting jobs out."""
        return await self.delete(None, user)

    async def move(self, job_id: str, *, number: float | None = None, front: bool = False) -> bool:
        """Give a waiting job another place. Returns False when it does not wait (any more)."""
        _check_number(number)
        moved = await self._line.move(job_id, number=number, front=front)
        if moved:
            self._jobs.changed()
        return moved

    async def delete_history(
        self, ids: Collection[str] | None, user: str | None = None, *, files: bool = False
    ) -> int:
        """Forget jobs that have ended, all of them for None.

        With `files` also delete what they wrote into the output and temp folders, and return how many files that were.
        """
        written = await self._written(ids, user) if files else []
        if ids is None:
            await self.store.clear_history(user)
        else:
            await self.store.delete_history(ids, user)
        self._events.emit(HistoryDeleted(ids=None if ids is None else list(ids), user=user))
        return await asyncio.to_thread(remove, written)

    async def _written(self, ids: Collection[str] | None, user: str | None) -> list[Path]:
        """The files that jobs of the history wrote."""
        folders = self._folders
        if folders is None:
            return []

        def of(entries: Sequence[bytes]) -> list[Path]:
            return [path for entry in entries for path in written_files(loads_anything(entry), folders)]

        found: list[Path] = []
        if ids is None:
            async for part in self.store.history_parts(user=user):
                found += await asyncio.to_thread(of, [entry for _, entry in part])
            return found
        for job_id in dict.fromkeys(ids):
            if (entry := await self.store.history_entry(job_id, user)) is not None:
                found += await asyncio.to_thread(of, [entry])
        return found

    def pause(self) -> None:
        """Start no more jobs; those that run go on."""
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        self._wake.set()

    async def free(self, *, unload_models: bool, free_memory: bool) -> dict[str, Any]:
        """Free what can be made again. While a job runs it is put off: `{"deferred": True}`."""
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._free_requests.append((unload_models, free_memory, future))
        if len(self._jobs):
            return {"deferred": True}
        self._wake.set()
        return await future

    async def between_jobs(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Await something while no job runs here; none is started before it is done. Returns its result.

        It is cancelled when the queue stops before.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._between.append((work, future))
        self._resting.add(future)
        self._wake.set()
        try:
            return await future
        finally:
            self._resting.discard(future)

    # --- work ---------------------------------------------------------------------------------------------------

    @property
    def _idle(self) -> bool:
        """Whether a job that comes in need not stand in line."""
        try:
            return self._line.length == 0 and self._room > 0
        except Exception:  # the executor's capacity is none: the job waits, and the worker says why
            return False

    @property
    def _room(self) -> int:
        """How many jobs may be started now."""
        if not self._started or self.paused or self._jobs.stopping or self._free_requests or self._between:
            return 0
        return self._executor.capacity - len(self._jobs.running)

    def _has_room(self) -> bool:
        return self._room > 0

    async def _work(self) -> None:
        """Start jobs while there is room for them."""
        while True:
            try:
                self._wake.clear()
                if (self._free_requests or self._between) and not len(self._jobs):
                    await self._rest()
                    continue
                while self._has_room() and (job := await self._line.take(self._has_room)) is not None:
                    # The numbers that servers give go on from each other's.
                    self._next_number = max(self._next_number, int(abs(job.number)) + 1)
                    self._jobs.take_up(job)
            except UnreadableJobError as error:
                await self._jobs.set_aside(error)
                continue
            except StoreError as error:
                log.error("no job could be taken from the store, trying again in %.1f s: %s", POLL_S, error)
                await self._woken(POLL_S)
                continue
            except Exception:  # a fault of the executor or the store: the queue must go on
                log.exception("the queue failed to start jobs, trying again in %.1f s", POLL_S)
                await asyncio.sleep(POLL_S)
                continue
            await self._woken(POLL_S if self._shared is not None else None)

    def _room_made(self) -> None:
        """Wake the worker, if it has anything to do: most jobs come to a queue that nobody waits in."""
        if self._shared is not None or self._line.length or self._free_requests or self._between:
            self._wake.set()

    async def _woken(self, seconds: float | None) -> None:
        if seconds is None:
            await self._wake.wait()
            return
        # Not `wait_for`: before Python 3.12 it may swallow that the task is cancelled.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    async def _rest(self) -> None:
        """Do what has to be done while no job runs."""
        if requests := list(self._free_requests):
            unload = any(unload for unload, _, _ in requests)
            free = any(free for _, free, _ in requests)
            try:
                with watch("freeing memory by", type(self._executor).__name__, awaits=True):
                    await _hand_over(
                        lambda: self._executor.free(unload_models=unload, free_memory=free),
                        [future for _, _, future in requests],
                    )
            finally:  # not before: no job is started meanwhile
                del self._free_requests[: len(requests)]
        while self._between:
            work, done = self._between[0]
            try:
                await _hand_over(work, [done])
            finally:
                del self._between[0]


def _check_number(number: float | None) -> None:
    """Raises PromptError for what cannot be a job's place: databases keep it as a float, and count on from it."""
    if number is not None and not abs(number) <= _FARTHEST:
        details = f"expected a number up to {_FARTHEST:g}, got {number}"
        raise PromptError(
            {
                "type": "invalid_number",
                "message": "No such place in the queue",
                "details": details,
                "extra_info": {},
            }
        )


async def _hand_over(work: Callable[[], Awaitable[Any]], futures: list[asyncio.Future[Any]]) -> None:
    """Await something for others, who get its result or its exception, or are cancelled with it."""
    try:
        result = await work()
    except asyncio.CancelledError:
        for future in futures:
            future.cancel()
        raise
    except Exception as error:
        for future in futures:
            if not future.done():
                future.set_exception(error)
        return
    for future in futures:
        if not future.done():
            future.set_result(result)
