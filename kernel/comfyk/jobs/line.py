"""The line that jobs wait in, over a store: one that this server has to itself, or one that several take from.

What a job runs stays in the store while it waits; here is a record of each (`QueuedJob`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from comfyk.events import now_ms
from comfyk.jobs.model import Job, QueuedJob
from comfyk.jobs.packing import pack, queued
from comfyk.jobs.store import (
    JobStore,
    QueueFullError,
    SharedJobStore,
    StoreError,
    UnknownJobError,
    UnreadableJobError,
)
from comfyk.jobs.waiting import RECORD, WaitingJobs


class Line(Protocol):
    """What the queue asks of it. A change is durable on return; StoreError means that nothing was changed."""

    async def load(self, max_attempts: int) -> tuple[int, list[QueuedJob]]:
        """Find what is left. Returns the number of the next job, and the jobs that were tried too often."""
        ...

    async def add(self, job: Job) -> None:
        """Put a job in. Raises QueueFullError when there is no room for it."""
        ...

    async def enter(self, job: Job, *, begun: bool) -> None:
        """Store a job that is taken at once; `begun`: as running, with its attempt counted."""
        ...

    async def take(self, wanted: Callable[[], bool]) -> Job | None:
        """The next one, whole and out of the line; None when nobody waits, or when it is not wanted any more.

        Raises UnreadableJobError for one that is out of the line, and that nobody can run.
        """
        ...

    async def give_back(self, job: Job) -> None:
        """Put a job back that was taken, with its `attempts`; it comes before all others if there were any."""
        ...

    async def remove(self, ids: Collection[str] | None, user: str | None) -> list[QueuedJob]:
        """Take waiting jobs out, all of them for None; returns those that were."""
        ...

    async def move(self, job_id: str, *, number: float | None, front: bool) -> bool:
        """Give a waiting job another place; False when it waits no more."""
        ...

    async def listing(self, user: str | None) -> tuple[list[QueuedJob], list[QueuedJob]]:
        """The jobs that run on other servers, and those that wait, next one first."""
        ...

    async def holds(self, job_id: str) -> bool:
        """Whether the job waits, or runs on another server."""
        ...

    @property
    def length(self) -> int:
        """How many wait, or run on other servers, as far as is known now."""
        ...

    async def refresh(self, running: int) -> None:
        """Look again how long it is; `running` jobs of this server are not counted."""
        ...


class OwnLine:
    """Nobody else changes the store, so that it is asked for nothing but what the next job runs."""

    def __init__(self, store: JobStore, max_bytes: int) -> None:
        """`max_bytes`: what the jobs that wait may take up together."""
        self._store = store
        self._waiting = WaitingJobs()
        self._max_bytes = max_bytes
        self._coming = 0
        """Bytes of jobs that are just being stored."""

    async def load(self, max_attempts: int) -> tuple[int, list[QueuedJob]]:
        next_number = 0
        given_up: list[QueuedJob] = []
        for job in await self._store.unfinished():
            next_number = max(next_number, int(abs(job.number)) + 1)
            if job.attempts >= max_attempts:
                given_up.append(job)
            else:
                self._waiting.push(job)
        return next_number, given_up

    async def add(self, job: Job) -> None:
        job.packed = pack(job)
        size = job.packed.size + RECORD
        _check_room(size, self._waiting.size + self._coming, self._max_bytes)
        self._coming += size
        try:
            await self._store.add(job)
        finally:
            self._coming -= size
            job.packed = None
        self._waiting.push(queued(job, size - RECORD))

    async def enter(self, job: Job, *, begun: bool) -> None:
        await self._store.add(job, started_at=now_ms() if begun else None)

    async def take(self, wanted: Callable[[], bool]) -> Job | None:
        while (next_one := self._waiting.next()) is not None:
            # It waits, for all to see, until it has been read.
            try:
                job = await self._store.read(next_one)
            except UnreadableJobError:
                if next_one.id in self._waiting:
                    self._waiting.remove(next_one.id)
                    raise
                continue
            except UnknownJobError as error:
                if next_one.id in self._waiting:  # and no call of ours has taken it out
                    self._waiting.remove(next_one.id)
                    raise UnreadableJobError(next_one, "it is there no more") from error
                continue
            if not wanted():
                return None
            if self._waiting.next() is next_one:
                self._waiting.remove(next_one.id)
                job.number = next_one.number
                return job
        return None

    async def give_back(self, job: Job) -> None:
        await self._store.requeue(job)
        self._waiting.push(queued(job, pack(job).size))

    async def remove(self, ids: Collection[str] | None, user: str | None) -> list[QueuedJob]:
        wanted = self._waiting.ids() if ids is None else dict.fromkeys(ids)
        jobs = [job for one in wanted if (job := self._waiting.get(one)) and user in (None, job.user)]
        keys = [self._waiting.remove(job.id) for job in jobs]
        try:
            await self._store.remove([job.id for job in jobs])
        except StoreError:
            for key, job in zip(keys, jobs, strict=True):
                self._waiting.put_back(key, job)
            raise
        return jobs

    async def move(self, job_id: str, *, number: float | None, front: bool) -> bool:
        job = self._waiting.get(job_id)
        if job is None:
            return False
        if number is None:
            number = self._waiting.place_beyond(job, front=front)
        before, job.number = job.number, number
        try:
            await self._store.renumber(job)
        except StoreError:
            job.number = before
            raise
        if job_id in self._waiting:
            self._waiting.push(job)
        return True

    async def listing(self, user: str | None) -> tuple[list[QueuedJob], list[QueuedJob]]:
        return [], [job for job in self._waiting.in_order() if user in (None, job.user)]

    async def holds(self, job_id: str) -> bool:
        return job_id in self._waiting

    @property
    def length(self) -> int:
        return len(self._waiting)

    async def refresh(self, running: int) -> None:
        """Nobody else changes it."""


class SharedLine:
    """Other servers put jobs in and take them out, so each question goes to the store."""

    def __init__(self, store: SharedJobStore, max_bytes: int) -> None:
        """`max_bytes`: what the jobs that wait may take up together, whichever server they came in at."""
        self._store = store
        self._length = 0
        self._max_bytes = max_bytes
        self._bytes = 0
        """Of those that wait: what the store said last, and what came in here since."""

    async def load(self, max_attempts: int) -> tuple[int, list[QueuedJob]]:
        running, waiting = await self._store.listing()
        await self.refresh(0)
        # Those that were tried too often may be running elsewhere: who takes one gives it up.
        return max((int(abs(job.number)) + 1 for job in (*running, *waiting)), default=0), []

    async def add(self, job: Job) -> None:
        job.packed = pack(job)
        size = job.packed.size + RECORD
        _check_room(size, self._bytes, self._max_bytes)
        self._bytes += size
        try:
            await self._store.add(job)
        except BaseException:
            self._bytes -= size
            raise
        finally:
            job.packed = None
        self._length += 1

    async def enter(self, job: Job, *, begun: bool) -> None:
        # As running in any case: one that waits in the store another server could take.
        await self._store.add(job, started_at=now_ms())

    async def take(self, wanted: Callable[[], bool]) -> Job | None:
        try:
            job = await self._store.take()
        except UnreadableJobError:
            self._length = max(self._length - 1, 0)
            raise
        if job is not None:
            self._length = max(self._length - 1, 0)
        return job

    async def give_back(self, job: Job) -> None:
        await self._store.requeue(job)
        self._length += 1

    async def remove(self, ids: Collection[str] | None, user: str | None) -> list[QueuedJob]:
        jobs = list(await self._store.take_out(ids, user))
        self._length = max(self._length - len(jobs), 0)
        self._bytes = max(self._bytes - sum(job.size + RECORD for job in jobs), 0)
        return jobs

    async def move(self, job_id: str, *, number: float | None, front: bool) -> bool:
        return await self._store.place(job_id, number=number, front=front)

    async def listing(self, user: str | None) -> tuple[list[QueuedJob], list[QueuedJob]]:
        return await self._store.listing(user)

    async def holds(self, job_id: str) -> bool:
        detail = await self._store.get(job_id)
        return detail is not None and detail.outcome is None

    @property
    def length(self) -> int:
        return self._length

    async def refresh(self, running: int) -> None:
        remaining = await self._store.remaining()
        self._length = max(remaining.jobs - running, 0)
        self._bytes = remaining.size + remaining.waiting * RECORD


def _check_room(size: int, taken: int, limit: int) -> None:
    if taken + size > limit:
        raise QueueFullError(size, limit)
