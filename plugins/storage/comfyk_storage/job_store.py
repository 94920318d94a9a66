"""The durable job store: the kernel's `JobStore` on an SQL database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from comfyk.jobs import (
    DuplicateJobError,
    Job,
    JobDetail,
    JobQuery,
    JobStatus,
    JobSummary,
    Outcome,
    PackedJob,
    QueuedJob,
    StoreError,
    UnknownJobError,
    UnreadableJobError,
    finished_detail,
    listed,
    newest_fitting,
    unpack,
)
from sqlalchemy import ColumnElement, Connection, Engine, bindparam, delete, func, select, update
from sqlalchemy.sql import Executable

from comfyk_storage.change import Change
from comfyk_storage.damage import set_aside_row, why_unreadable
from comfyk_storage.engine import (
    READERS,
)
from comfyk_storage.errors import store_error
from comfyk_storage.keeping import Keeping
from comfyk_storage.recent import RecentEntries
from comfyk_storage.schema import (
    ENDED,
    LINE_ORDER,
    QUEUED,
    SIZE,
    SUMMARY,
    UNENDED,
    finished_row,
    jobs,
    read_job,
    read_queued,
    read_summary,
    unfinished_row,
)
from comfyk_storage.writer import Writer

T = TypeVar("T")

_PART = 1_000_000
"""Bytes of history that are read at a time."""

THIS = jobs.c.id == bindparam("job_id")
_THIS_USER = jobs.c.user == bindparam("job_user")

# Each of these sets what the change's rows hold; one object each, because changes of one object run together.
_START = update(jobs).where(THIS, jobs.c.history_seq.is_(None))
_FINISH = update(jobs).where(THIS, jobs.c.history_seq.is_(None))
_SET_ASIDE = update(jobs).where(THIS, jobs.c.history_seq.is_(None))
_REQUEUE = update(jobs).where(THIS, jobs.c.history_seq.is_(None))
_RENUMBER = update(jobs).where(THIS, jobs.c.history_seq.is_(None))
_REMOVE = delete(jobs).where(THIS, jobs.c.status == JobStatus.PENDING.value)
_DELETE = delete(jobs).where(THIS, ENDED)
_DELETE_OF_USER = _DELETE.where(_THIS_USER)
_CLEAR = delete(jobs).where(ENDED)
_CLEAR_OF_USER = _CLEAR.where(_THIS_USER)

_UNFINISHED = select(*QUEUED).where(UNENDED).order_by(*LINE_ORDER)
_PACKED = select(jobs.c.body, jobs.c.sensitive).where(THIS, jobs.c.history_seq.is_(None))
_HISTORY = select(jobs.c.id, jobs.c.entry).where(ENDED)
_ENTRY = select(jobs.c.entry).where(THIS, ENDED)
_ONE = select(*SUMMARY, jobs.c.user, jobs.c.attempts, SIZE, jobs.c.body, jobs.c.entry).where(THIS)


class SqlJobStore:
    """A `JobStore` in a SQLite file. One thread writes, two read; the event loop waits for none.

    What PostgreSQL does otherwise is in `comfyk_storage.shared_store`.
    """

    def __init__(
        self,
        engine: Engine,
        writer: Writer,
        place: str,
        *,
        release: Callable[[], None],
        recent: RecentEntries,
        ended: int = 0,
        keeping: Keeping | None = None,
    ) -> None:
        """For `comfyk_storage.opening`. `release` is called when all is closed; `ended` is the last history number."""
        self._engine = engine
        self._reading = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._readers = ThreadPoolExecutor(READERS, "comfyk-storage-reader")
        self._writer = writer
        self._place = place
        self._release = release
        self._recent = recent
        self._ended = ended
        self._keeping = keeping
        self._closed = False
        self._add = insert_unless_taken(engine.dialect.name)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        stopped = await asyncio.to_thread(self._writer.close)
        self._readers.shutdown(wait=stopped, cancel_futures=True)
        if stopped:
            self._engine.dispose()
            self._release()

    async def add(self, job: Job, started_at: int | None = None) -> None:
        row = unfinished_row(job, started_at)
        keeping = self._keeping
        committed = None if keeping is None else lambda: keeping.unfinished.add(row)
        await self._writer.submit(Change(self._add, [row], unchanged=duplicate(job), committed=committed))

    async def start(self, job: Job, started_at: int) -> None:
        row = {
            "job_id": job.id,
            "status": JobStatus.IN_PROGRESS.value,
            "attempts": job.attempts,
            "started_at": started_at,
        }
        await self._writer.submit(Change(_START, [row], unchanged=_unknown(job), committed=self._noting(row)))

    async def requeue(self, job: Job) -> None:
        row = {
            "job_id": job.id,
            "status": JobStatus.PENDING.value,
            "attempts": job.attempts,
            "started_at": None,
        }
        change = Change(_REQUEUE, [row], unchanged=_unknown(job), committed=self._noting(row))
        await self._surely(job.id, change, lambda: unfinished_row(job, None))

    async def finish(self, job: Job, outcome: Outcome) -> None:
        self._ended += 1
        row = {"job_id": job.id, "history_seq": self._ended, **finished_row(job, outcome)}
        entry: bytes = row["entry"]

        def remember() -> None:
            self._recent.add(job.id, job.user, outcome.finished_at, entry)
            if self._keeping is not None:
                self._keeping.ended(job.id, row)

        change = Change(_FINISH, [row], history=1, unchanged=_unknown(job), committed=remember)
        await self._surely(job.id, change, lambda: {**unfinished_row(job, None), **row})

    def _noting(self, row: dict[str, Any]) -> Callable[[], None] | None:
        """What is to be done once columns of a job have new values."""
        keeping = self._keeping
        if keeping is None:
            return None
        values = {name: value for name, value in row.items() if name != "job_id"}
        return lambda: keeping.unfinished.change(row["job_id"], **values)

    async def _surely(self, job_id: str, change: Change, whole: Callable[[], dict[str, Any]]) -> None:
        """Make a change that must not be lost: while the database fails, the row lies in a file beside it."""
        keeping = self._keeping
        try:
            await self._writer.submit(change)
        except UnknownJobError:
            if keeping is not None and keeping.unsaved:  # it is stored, though that was told to have failed
                await asyncio.to_thread(keeping.unsaved.drop, job_id)
            raise
        except StoreError:
            if keeping is not None and not self._closed:
                row = {
                    name: value for name, value in whole().items() if name not in ("job_id", "history_seq")
                }
                await asyncio.to_thread(keeping.unsaved.add, [row])
            raise
        if keeping is not None and keeping.unsaved:
            await asyncio.to_thread(keeping.unsaved.drop, job_id)

    async def renumber(self, job: QueuedJob) -> None:
        row = {"job_id": job.id, "number": job.number}
        await self._writer.submit(Change(_RENUMBER, [row], committed=self._noting(row)))

    async def remove(self, ids: Collection[str]) -> None:
        rows = [{"job_id": job_id} for job_id in ids]
        keeping = self._keeping

        def forget() -> None:
            if keeping is not None:
                for row in rows:
                    keeping.unfinished.forget(row["job_id"])

        await self._writer.submit(Change(_REMOVE, rows, committed=forget))

    async def delete_history(self, ids: Collection[str], user: str | None = None) -> None:
        wanted = list(ids)

        def forget() -> None:
            self._recent.forget(wanted, user)

        if user is None:
            rows = [{"job_id": job_id} for job_id in wanted]
            change = Change(_DELETE, rows, history=-1, committed=forget)
        else:
            rows = [{"job_id": job_id, "job_user": user} for job_id in wanted]
            change = Change(_DELETE_OF_USER, rows, history=-1, committed=forget)
        await self._writer.submit(change)

    async def clear_history(self, user: str | None = None) -> None:
        def forget() -> None:
            self._recent.forget(None, user)

        if user is None:
            change = Change(_CLEAR, [{}], history=-1, committed=forget)
        else:
            change = Change(_CLEAR_OF_USER, [{"job_user": user}], history=-1, committed=forget)
        await self._writer.submit(change)

    async def unfinished(self) -> list[QueuedJob]:
        return await self._read(
            lambda connection: [read_queued(row) for row in connection.execute(_UNFINISHED)]
        )

    async def read(self, job: QueuedJob) -> Job:
        known = None if self._keeping is None or self._closed else self._keeping.unfinished.get(job.id)
        if known is not None:
            return unpack(job, PackedJob(known["body"], known.get("sensitive")))

        def read(connection: Connection) -> Job:
            try:
                row = connection.execute(_PACKED, {"job_id": job.id}).first()
                if row is None:
                    raise UnknownJobError.of(job.id)
                return unpack(job, PackedJob(row.body, row.sensitive))
            except Exception as error:
                if why := why_unreadable(error):
                    raise UnreadableJobError(job, why) from error
                raise

        return await self._read(read)

    async def bodies(self, ids: Collection[str]) -> Mapping[str, bytes]:
        found: dict[str, bytes] = {}
        if self._keeping is not None and not self._closed:
            rows = {job_id: self._keeping.unfinished.get(job_id) for job_id in ids}
            found = {job_id: row["body"] for job_id, row in rows.items() if row is not None}
        missing = [job_id for job_id in ids if job_id not in found]

        def read(connection: Connection) -> None:
            for job_id in missing:  # each by itself: one may be damaged
                try:
                    row = connection.execute(_PACKED, {"job_id": job_id}).first()
                    body = None if row is None else listed(row.body)
                except Exception as error:
                    if not why_unreadable(error):
                        raise
                    continue
                if body is not None:
                    found[job_id] = body

        if missing:
            await self._read(read)
        return found

    async def set_aside(self, job: QueuedJob, outcome: Outcome) -> None:
        self._ended += 1
        row = {"job_id": job.id, "history_seq": self._ended, **set_aside_row(job, outcome)}

        def forget() -> None:
            if self._keeping is not None:
                self._keeping.unfinished.forget(job.id)

        change = Change(_SET_ASIDE, [row], history=1, unchanged=_unknown(job), committed=forget)
        await self._writer.submit(change)

    async def history(
        self, limit: int | None = None, offset: int | None = None, user: str | None = None
    ) -> list[tuple[str, bytes]]:
        query = _HISTORY if user is None else _HISTORY.where(jobs.c.user == user)
        if limit is not None:
            query = query.limit(max(limit, 0))
        newest = limit is not None and (offset is None or offset < 0)
        if newest:
            query = query.order_by(jobs.c.history_seq.desc())
        else:
            query = query.order_by(jobs.c.history_seq).offset(max(offset or 0, 0))

        def read(connection: Connection) -> list[tuple[str, bytes]]:
            entries = [(job_id, entry) for job_id, entry in connection.execute(query)]
            return entries[::-1] if newest else entries

        return await self._read(read)

    async def history_parts(
        self, limit: int | None = None, offset: int | None = None, user: str | None = None
    ) -> AsyncIterator[list[tuple[str, bytes]]]:
        which = ENDED if user is None else ENDED & (jobs.c.user == user)

        def entries(connection: Connection, first: int, last: int) -> list[tuple[str, bytes]]:
            query = _HISTORY.where(which, jobs.c.history_seq.between(first, last)).order_by(
                jobs.c.history_seq
            )
            return [(job_id, entry) for job_id, entry in connection.execute(query)]

        def begin(connection: Connection) -> tuple[list[tuple[str, bytes]], list[tuple[int, int]]]:
            parts = _parts(connection, which, limit, offset)
            return entries(connection, *parts[0]) if parts else [], parts[1:]

        first_part, parts = await self._read(begin)
        yield first_part
        for first, last in parts:
            yield await self._read(partial(entries, first=first, last=last))

    async def history_fitting(self, most: int, user: str | None = None) -> tuple[int, int]:
        which = ENDED if user is None else ENDED & (jobs.c.user == user)
        sizes = select(func.length(jobs.c.entry)).where(which).order_by(jobs.c.history_seq.desc())
        return newest_fitting(await self._read(lambda connection: connection.scalars(sizes).all()), most)

    async def history_entry(self, job_id: str, user: str | None = None) -> bytes | None:
        recent = self._recent.get(job_id)
        if recent is not None and not self._closed:
            return recent.entry if user in (None, recent.user) else None
        query = _ENTRY if user is None else _ENTRY.where(jobs.c.user == user)
        return await self._read(lambda connection: connection.scalar(query, {"job_id": job_id}))

    async def list(self, query: JobQuery) -> tuple[list[JobSummary], int]:
        wanted = select(jobs.c.seq)
        if query.statuses is not None:
            wanted = wanted.where(jobs.c.status.in_([str(status) for status in query.statuses]))
        if query.workflow_id is not None:
            wanted = wanted.where(jobs.c.workflow_id == query.workflow_id)
        if query.user is not None:
            wanted = wanted.where(jobs.c.user == query.user)
        column = jobs.c.duration if query.sort_by == "execution_duration" else jobs.c.created_at
        order = [c.desc() if query.descending else c.asc() for c in (column, jobs.c.seq)]
        page = wanted.order_by(*order).offset(max(query.offset, 0))
        if query.limit is not None:
            page = page.limit(max(query.limit, 0))
        # The page is chosen in an index; only its rows are then read whole.
        lines = select(*SUMMARY).where(jobs.c.seq.in_(page)).order_by(*order)
        count = select(func.count()).select_from(wanted.subquery())

        def read(connection: Connection) -> tuple[list[JobSummary], int]:
            found = [read_summary(row) for row in connection.execute(lines)]
            return found, connection.scalar(count) or 0

        return await self._read(read)

    async def get(self, job_id: str, user: str | None = None) -> JobDetail | None:
        def read(connection: Connection) -> JobDetail | None:
            row = connection.execute(_ONE, {"job_id": job_id}).first()
            if row is None or user not in (None, row.user):
                return None
            summary = read_summary(row)
            if row.entry is None:
                return JobDetail(summary, read_job(row, sensitive=False))
            return finished_detail(summary, row.entry, row.user, row.attempts)

        return await self._read(read)

    async def _read(self, read: Callable[[Connection], T]) -> T:
        """Run `read` in a reader thread. What was committed before is seen."""

        def run() -> T:
            with self._reading.connect() as connection:
                return read(connection)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, run)
        except Exception as error:
            raise store_error(error, self._place) from error


def insert_unless_taken(dialect: str, **values: Any) -> Executable:
    """An insert that changes nothing when the id is taken. Only the dialect in use is imported."""
    if dialect == "sqlite":
        from sqlalchemy.dialects.sqlite import insert

        return insert(jobs).inline().on_conflict_do_nothing(index_elements=["id"])
    from sqlalchemy.dialects.postgresql import insert as postgres_insert

    return postgres_insert(jobs).inline().values(**values).on_conflict_do_nothing(index_elements=["id"])


def _parts(
    connection: Connection, which: ColumnElement[bool], limit: int | None, offset: int | None
) -> list[tuple[int, int]]:
    """The history in parts of about `_PART` bytes: the first and the last `history_seq` of each, oldest first."""
    sizes = select(jobs.c.history_seq, func.length(jobs.c.entry)).where(which)
    newest = limit is not None and (offset is None or offset < 0)
    sizes = sizes.order_by(jobs.c.history_seq.desc() if newest else jobs.c.history_seq)
    if limit is not None:
        sizes = sizes.limit(max(limit, 0))
    rows = connection.execute(sizes if newest else sizes.offset(max(offset or 0, 0))).all()
    parts: list[tuple[int, int]] = []
    room = 0
    for seq, size in reversed(rows) if newest else rows:
        if size > room:
            parts.append((seq, seq))
            room = _PART
        parts[-1] = (parts[-1][0], seq)
        room -= size
    return parts


def duplicate(job: Job) -> Callable[[Connection], StoreError]:
    """What is wrong when a job could not be added."""
    return lambda _connection: DuplicateJobError.of(job.id)


def _unknown(job: Job | QueuedJob) -> Callable[[Connection], StoreError]:
    return lambda _connection: UnknownJobError.of(job.id)
