"""The job store in PostgreSQL, which several servers have open: each takes jobs with a lease.

A job that somebody took is `in_progress`, has that server as its owner, and a time until which it is that server's.
The owner stays in the row when the lease is given up or the job ends, so that whoever comes too late can tell. An
owner is one life of a server: the server that starts anew under its name is another one, which puts back what its
predecessor held.
"""

from __future__ import annotations

import socket
import uuid
from collections.abc import Callable, Collection, Sequence
from typing import Any

from comfyk.jobs import (
    Job,
    JobStatus,
    LeaseLostError,
    Outcome,
    QueuedJob,
    Remaining,
    Renewal,
    StoreError,
    UnknownJobError,
)
from sqlalchemy import (
    URL,
    Connection,
    CursorResult,
    Engine,
    bindparam,
    case,
    delete,
    func,
    literal_column,
    or_,
    select,
    update,
)

from comfyk_storage.change import Change
from comfyk_storage.damage import set_aside_row
from comfyk_storage.engine import open_engine
from comfyk_storage.errors import describe, store_error
from comfyk_storage.job_store import THIS, SqlJobStore, duplicate, insert_unless_taken
from comfyk_storage.migrations import JOBS, current_revision, prepare
from comfyk_storage.presence import Presence, need_to_be_alone
from comfyk_storage.recent import RecentEntries
from comfyk_storage.retention import SharedRetention
from comfyk_storage.schema import (
    LINE_ORDER,
    QUEUED,
    SIZE,
    UNENDED,
    finished_row,
    jobs,
    read_job,
    read_queued,
    unfinished_row,
)
from comfyk_storage.writer import Writer

_PENDING = jobs.c.status == JobStatus.PENDING.value
_RUNNING = jobs.c.status == JobStatus.IN_PROGRESS.value
_LAPSED = _RUNNING & or_(jobs.c.lease_until.is_(None), jobs.c.lease_until < func.clock_timestamp())
_NEXT = (
    select(jobs.c.seq)
    .where(or_(_PENDING, _LAPSED))
    .order_by(case((_PENDING, 1), else_=0), *LINE_ORDER)
    .limit(1)
    .with_for_update(skip_locked=True)
    .cte("next")
)
_OWN = THIS & jobs.c.history_seq.is_(None) & or_(jobs.c.owner.is_(None), jobs.c.owner == bindparam("own"))
_REQUEUE = update(jobs).where(_OWN)
_FINISH = update(jobs).where(_OWN)
_SET_ASIDE = update(jobs).where(_OWN)
_CANCEL = update(jobs).where(THIS, _RUNNING).values(cancel_requested=True)
_TAKE_OUT = delete(jobs).where(_PENDING).returning(*QUEUED)
_PLACE = update(jobs).where(THIS, _PENDING)
_WHOSE = select(jobs.c.owner).where(THIS)
_REMAINING = select(
    func.count(), func.count().filter(_PENDING), func.coalesce(func.sum(SIZE).filter(_PENDING), 0)
).where(UNENDED)
_LISTING = select(jobs.c.status, *QUEUED).where(UNENDED).order_by(*LINE_ORDER)


class SharedSqlJobStore(SqlJobStore):
    """A `SharedJobStore` in PostgreSQL."""

    def __init__(self, engine: Engine, writer: Writer, place: str, owner: str, lease_s: float) -> None:
        """For `open_shared`."""
        # Others may delete from the history: nothing of it is kept in memory.
        recent = RecentEntries(0, None, max_bytes=0)
        super().__init__(engine, writer, place, release=lambda: None, recent=recent)
        self.lease_s = lease_s
        self._owner = owner
        lease = literal_column(f"clock_timestamp() + interval '{lease_s:.3f} seconds'")
        self._add_taken = insert_unless_taken(engine.dialect.name, owner=owner, lease_until=lease)
        self._start = update(jobs).where(_OWN).values(owner=owner, lease_until=lease)
        self._take = (
            update(jobs)
            .where(jobs.c.seq == _NEXT.c.seq)
            .values(status=JobStatus.IN_PROGRESS.value, owner=owner, lease_until=lease, started_at=None)
            .returning(*QUEUED, jobs.c.body, jobs.c.sensitive)
        )
        self._renew = (
            update(jobs)
            .where(jobs.c.id.in_(bindparam("ids", expanding=True)), _RUNNING, jobs.c.owner == owner)
            .values(lease_until=lease)
            .returning(jobs.c.id, jobs.c.cancel_requested)
        )

    # --- as every store -----------------------------------------------------------------------------------------

    async def add(self, job: Job, started_at: int | None = None) -> None:
        statement = self._add if started_at is None else self._add_taken
        await self._writer.submit(
            Change(statement, [unfinished_row(job, started_at)], unchanged=duplicate(job))
        )

    async def start(self, job: Job, started_at: int) -> None:
        row = {"status": JobStatus.IN_PROGRESS.value, "attempts": job.attempts, "started_at": started_at}
        await self._change(self._start, job, row)

    async def requeue(self, job: Job) -> None:
        row = {
            "status": JobStatus.PENDING.value,
            "attempts": job.attempts,
            "started_at": None,
            "owner": self._owner,
            "lease_until": None,
        }
        await self._change(_REQUEUE, job, row)

    async def finish(self, job: Job, outcome: Outcome) -> None:
        await self._end(job, finished_row(job, outcome))

    async def set_aside(self, job: QueuedJob, outcome: Outcome) -> None:
        await self._end(job, set_aside_row(job, outcome))

    async def _end(self, job: Job | QueuedJob, row: dict[str, Any]) -> None:
        row |= {
            "history_seq": None,  # given by the database: see SharedRetention
            "owner": self._owner,
            "lease_until": None,
            "cancel_requested": None,
        }
        # Of these the one has columns that the other leaves as they are.
        await self._change(_FINISH if "body" in row else _SET_ASIDE, job, row, history=1)

    async def _change(
        self, statement: Any, job: Job | QueuedJob, row: dict[str, Any], history: int = 0
    ) -> None:
        """Make a change of a job that is this server's, or nobody's."""

        def refused(connection: Connection) -> StoreError:
            found = connection.execute(_WHOSE, {"job_id": job.id}).first()
            if found is None or found.owner in (None, self._owner):
                return UnknownJobError.of(job.id)
            server = found.owner.partition(" ")[2]
            return LeaseLostError(f"Job {job.id} was taken over by the server {server!r}.")

        row = {"job_id": job.id, "own": self._owner, **row}
        await self._writer.submit(Change(statement, [row], history=history, unchanged=refused))

    # --- as a shared one ----------------------------------------------------------------------------------------

    async def take(self) -> Job | None:
        row = await self._writer.submit(Change(self._take, [{}], result=CursorResult.first))
        # Read once it is taken: one that cannot be read is not there for others to stumble over.
        return None if row is None else read_job(row, sensitive=True)

    async def renew(self, ids: Collection[str]) -> Renewal:
        def read(result: CursorResult[Any]) -> Renewal:
            held = {row.id: bool(row.cancel_requested) for row in result}
            return Renewal(frozenset(held), frozenset(job_id for job_id, cancel in held.items() if cancel))

        return await self._writer.submit(Change(self._renew, [{"ids": list(ids)}], result=read))

    async def listing(self, user: str | None = None) -> tuple[list[QueuedJob], list[QueuedJob]]:
        query = _LISTING if user is None else _LISTING.where(jobs.c.user == user)

        def read(connection: Connection) -> tuple[list[QueuedJob], list[QueuedJob]]:
            running: list[QueuedJob] = []
            pending: list[QueuedJob] = []
            for row in connection.execute(query):
                line = pending if row.status == JobStatus.PENDING.value else running
                line.append(read_queued(row))
            return running, pending

        return await self._read(read)

    async def remaining(self) -> Remaining:
        def read(connection: Connection) -> Remaining:
            count, waiting, size = connection.execute(_REMAINING).one()
            return Remaining(count, waiting, int(size))

        return await self._read(read)

    async def take_out(self, ids: Collection[str] | None, user: str | None = None) -> Sequence[QueuedJob]:
        statement = _TAKE_OUT
        if ids is not None:
            statement = statement.where(jobs.c.id.in_(list(ids)))
        if user is not None:
            statement = statement.where(jobs.c.user == user)

        def read(result: CursorResult[Any]) -> list[QueuedJob]:
            return [read_queued(row) for row in result]

        return await self._writer.submit(Change(statement, [{}], result=read))

    async def place(self, job_id: str, *, number: float | None, front: bool) -> bool:
        if number is None:
            others = jobs.alias("others")
            end = func.min(others.c.number) - 1 if front else func.max(others.c.number) + 1
            waiting = (others.c.status == JobStatus.PENDING.value) & (others.c.id != job_id)
            beyond = select(func.coalesce(end, -1 if front else 1)).where(waiting).scalar_subquery()
            statement = _PLACE.values(number=beyond)
        else:
            statement = _PLACE.values(number=number)
        return await self._writer.submit(Change(statement, [{"job_id": job_id}], result=_changed))

    async def ask_to_cancel(self, job_id: str) -> bool:
        return await self._writer.submit(Change(_CANCEL, [{"job_id": job_id}], result=_changed))

    async def ended(self, ids: Collection[str]) -> Sequence[str]:
        wanted = list(ids)
        query = select(jobs.c.id).where(jobs.c.id.in_(wanted), UNENDED)

        def read(connection: Connection) -> list[str]:
            unended = set(connection.scalars(query))
            return [job_id for job_id in wanted if job_id not in unended]

        return await self._read(read)


def open_shared(
    url: URL,
    name: str,
    lease_s: float,
    history_limit: int,
    history_max_age_days: int | None,
    *,
    busy_timeout_s: float,
) -> SharedSqlJobStore:
    """See `comfyk_storage.opening.open_job_store`."""
    name = name or socket.gethostname()
    place = describe(url, None)
    engine = open_engine(
        url, synchronous="normal", busy_timeout_s=busy_timeout_s, give_way_s=min(lease_s, 10.0)
    )
    presence = Presence(name, place)
    owner = f"{uuid.uuid4().hex} {name}"
    predecessors = (_RUNNING, func.substr(jobs.c.owner, 34) == name)

    def connect(work: Callable[[Connection], None]) -> Connection:
        connection = engine.connect().execution_options(preserve_rowcount=True)
        try:
            presence.take_name(connection)
            work(connection)
            connection.commit()
        except BaseException:
            connection.invalidate()  # its locks must go
            connection.close()
            raise
        return connection

    def again(connection: Connection) -> None:
        presence.show(connection)
        revision = current_revision(connection, JOBS)
        if revision != JOBS.head:
            raise StoreError(
                f"{place} was upgraded to revision {revision} meanwhile, which this server does not know. "
                "Upgrade it too, and start it again."
            )

    def first(connection: Connection) -> None:
        prepare(connection, place, None, JOBS, lambda connection: need_to_be_alone(connection, place))
        again(connection)
        connection.execute(
            update(jobs)
            .where(*predecessors)
            .values(status=JobStatus.PENDING.value, started_at=None, owner=owner, lease_until=None)
        )
        connection.commit()
        retention.clean(connection)

    try:
        retention = SharedRetention(history_limit, history_max_age_days)
        connection = connect(first)
        writer = Writer(connection, lambda: connect(again), retention, place)
        return SharedSqlJobStore(engine, writer, place, owner, lease_s)
    except Exception as error:
        engine.dispose()
        raise store_error(error, place) from error


def _changed(result: CursorResult[Any]) -> bool:
    return result.rowcount > 0
