"""Jobs kept in memory: for tests, for embedding, and for a server that need not remember anything."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from comfyk.jobs.history import (
    duration,
    finished_detail,
    finished_summary,
    history_entry_json,
    newest_fitting,
    unfinished_summary,
)
from comfyk.jobs.model import Job, JobStatus, Outcome, PackedJob, QueuedJob
from comfyk.jobs.packing import listed, pack, queued, unpack, unread
from comfyk.jobs.store import (
    DuplicateJobError,
    JobDetail,
    JobQuery,
    JobSummary,
    UnknownJobError,
)

_PART = 1_000_000
"""Bytes of history that are given at a time."""


@dataclass(slots=True)
class _Unfinished:
    age: int
    job: QueuedJob
    packed: PackedJob
    workflow_id: str | None
    status: JobStatus = JobStatus.PENDING
    started_at: int | None = None

    @property
    def user(self) -> str:
        return self.job.user

    @property
    def summary(self) -> JobSummary:
        return unfinished_summary(self.job, self.workflow_id, self.status, self.started_at)


@dataclass(slots=True)
class _Finished:
    age: int
    summary: JobSummary
    entry: bytes
    user: str
    attempts: int


class MemoryJobStore:
    """A `JobStore` that forgets everything when the process ends."""

    def __init__(self, history_limit: int = 10_000) -> None:
        """`history_limit`: how many finished jobs to keep, 0 for all."""
        self._history_limit = history_limit
        self._unfinished: dict[str, _Unfinished] = {}
        self._finished: dict[str, _Finished] = {}
        self._ages = itertools.count()

    async def close(self) -> None:
        """Nothing to release."""

    async def unfinished(self) -> list[QueuedJob]:
        kept = sorted(
            self._unfinished.values(),
            key=lambda k: (k.job.attempts == 0, k.job.number, k.age),
        )
        return [replace(k.job) for k in kept]

    async def read(self, job: QueuedJob) -> Job:
        kept = self._known(job)
        return unpack(kept.job, kept.packed)

    async def bodies(self, ids: Collection[str]) -> Mapping[str, bytes]:
        kept = {job_id: self._unfinished[job_id] for job_id in ids if job_id in self._unfinished}
        return {job_id: body for job_id, k in kept.items() if (body := listed(k.packed.body)) is not None}

    async def set_aside(self, job: QueuedJob, outcome: Outcome) -> None:
        await self.finish(unread(job), outcome)

    async def add(self, job: Job, started_at: int | None = None) -> None:
        if job.id in self._unfinished or job.id in self._finished:
            raise DuplicateJobError.of(job.id)
        status = JobStatus.PENDING if started_at is None else JobStatus.IN_PROGRESS
        packed = pack(job)
        self._unfinished[job.id] = _Unfinished(
            next(self._ages), queued(job, packed.size), packed, job.workflow_id, status, started_at
        )

    async def start(self, job: Job, started_at: int) -> None:
        kept = self._known(job)
        kept.status, kept.started_at, kept.job.attempts = JobStatus.IN_PROGRESS, started_at, job.attempts

    async def requeue(self, job: Job) -> None:
        kept = self._known(job)
        kept.status, kept.started_at, kept.job.attempts = JobStatus.PENDING, None, job.attempts

    async def finish(self, job: Job, outcome: Outcome) -> None:
        kept = self._known(job)
        entry = history_entry_json(job, outcome)
        del self._unfinished[job.id]
        self._finished[job.id] = _Finished(
            kept.age, finished_summary(job, outcome), entry, job.user, job.attempts
        )
        if self._history_limit and len(self._finished) > self._history_limit:
            del self._finished[next(iter(self._finished))]

    async def renumber(self, job: QueuedJob) -> None:
        if kept := self._unfinished.get(job.id):
            kept.job.number = job.number

    async def remove(self, ids: Collection[str]) -> None:
        for job_id in ids:
            kept = self._unfinished.get(job_id)
            if kept is not None and kept.status is JobStatus.PENDING:
                del self._unfinished[job_id]

    async def history(
        self, limit: int | None = None, offset: int | None = None, user: str | None = None
    ) -> list[tuple[str, bytes]]:
        entries = [(job_id, k.entry) for job_id, k in self._finished.items() if user in (None, k.user)]
        if limit is not None:
            limit = max(limit, 0)
        if offset is None or offset < 0:
            return entries if limit is None else entries[max(len(entries) - limit, 0) :]
        return entries[offset:] if limit is None else entries[offset : offset + limit]

    async def history_parts(
        self, limit: int | None = None, offset: int | None = None, user: str | None = None
    ) -> AsyncIterator[list[tuple[str, bytes]]]:
        part: list[tuple[str, bytes]] = []
        room = _PART
        for job_id, entry in await self.history(limit, offset, user):
            if part and len(entry) > room:
                yield part
                part, room = [], _PART
            if job_id in self._finished:
                part.append((job_id, entry))
            room -= len(entry)
        yield part

    async def history_fitting(self, most: int, user: str | None = None) -> tuple[int, int]:
        return newest_fitting([len(entry) for _, entry in reversed(await self.history(user=user))], most)

    async def history_entry(self, job_id: str, user: str | None = None) -> bytes | None:
        kept = self._finished.get(job_id)
        return kept.entry if kept is not None and user in (None, kept.user) else None

    async def delete_history(self, ids: Collection[str], user: str | None = None) -> None:
        for job_id in ids:
            kept = self._finished.get(job_id)
            if kept is not None and user in (None, kept.user):
                del self._finished[job_id]

    async def clear_history(self, user: str | None = None) -> None:
        self._finished = {i: k for i, k in self._finished.items() if user not in (None, k.user)}

    async def list(self, query: JobQuery) -> tuple[list[JobSummary], int]:
        found = [(k.summary, k.age) for k in self._matching(query)]
        by_duration = query.sort_by == "execution_duration"
        found.sort(
            key=lambda s: (duration(s[0]) if by_duration else s[0].create_time, s[1]),
            reverse=query.descending,
        )
        start = max(query.offset, 0)
        end = None if query.limit is None else start + max(query.limit, 0)
        return [summary for summary, _ in found[start:end]], len(found)

    async def get(self, job_id: str, user: str | None = None) -> JobDetail | None:
        kept = self._unfinished.get(job_id) or self._finished.get(job_id)
        if kept is None or user not in (None, kept.user):
            return None
        if isinstance(kept, _Finished):
            return finished_detail(kept.summary, kept.entry, kept.user, kept.attempts)
        job = unpack(kept.job, PackedJob(kept.packed.body, None))
        return JobDetail(kept.summary, job)

    def _known(self, job: Job | QueuedJob) -> _Unfinished:
        kept = self._unfinished.get(job.id)
        if kept is None:
            raise UnknownJobError.of(job.id)
        return kept

    def _matching(self, query: JobQuery) -> Iterator[_Unfinished | _Finished]:
        for kept in itertools.chain(self._unfinished.values(), self._finished.values()):
            if query.user not in (None, kept.user):
                continue
            summary = kept.summary
            if query.statuses is not None and summary.status not in query.statuses:
                continue
            if query.workflow_id is None or summary.workflow_id == query.workflow_id:
                yield kept
