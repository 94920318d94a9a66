"""Opening the job store that a database URL names: a SQLite file's, or one that servers share in PostgreSQL."""

from __future__ import annotations

from comfyk.jobs import JobStatus, StoreError
from sqlalchemy import Connection, func, select, update

from comfyk_storage.damage import set_aside_damaged
from comfyk_storage.driver import SqliteDriver
from comfyk_storage.engine import (
    Synchronous,
    make_sqlite_file,
    open_engine,
    parse_url,
    sqlite_path,
)
from comfyk_storage.errors import describe, store_error
from comfyk_storage.job_store import SqlJobStore
from comfyk_storage.keeping import Keeping
from comfyk_storage.lock import FileLock
from comfyk_storage.migrations import prepare
from comfyk_storage.recent import RecentEntries
from comfyk_storage.rescue import forget_unsaved, put_in_place, rescued_file, take_in_unsaved
from comfyk_storage.retention import Retention
from comfyk_storage.schema import jobs
from comfyk_storage.writer import Writer


def open_job_store(
    database_url: str,
    *,
    synchronous: Synchronous = "normal",
    history_limit: int = 10_000,
    history_max_age_days: int | None = None,
    busy_timeout_s: float = 5,
    server_name: str = "",
    lease_s: float = 30,
) -> SqlJobStore:
    """Open the store at `database_url`, creating or upgrading its tables; blocks for some milliseconds.

    In PostgreSQL, where it is a `SharedJobStore`, `server_name` is this server's, by default the machine's.
    Raises StoreError, whose message says what to do, when that is impossible; then nothing was deleted
    or overwritten.
    """
    url = parse_url(database_url)
    file = sqlite_path(url)
    if file is None:
        from comfyk_storage.shared_store import open_shared  # imports what PostgreSQL alone needs

        return open_shared(
            url, server_name, lease_s, history_limit, history_max_age_days, busy_timeout_s=busy_timeout_s
        )
    place = describe(url, file)
    make_sqlite_file(file)
    lock = FileLock(file.with_name(file.name + ".lock"), file)
    try:
        put_in_place(file)
    except OSError as error:
        lock.release()
        raise StoreError(f"{place}: {rescued_file(file)} cannot be put in its place: {error}") from error
    engine = open_engine(url, synchronous=synchronous, busy_timeout_s=busy_timeout_s)

    def connect() -> Connection:
        # The writer tells by the counts of changed rows whose change found nothing to do.
        return engine.connect().execution_options(preserve_rowcount=True)

    connection: Connection | None = None
    try:
        connection = connect()
        prepare(connection, place, file)
        take_in_unsaved(connection, file)
        set_aside_damaged(connection, place)
        retention = Retention(history_limit, history_max_age_days)
        retention.clean(connection)
        _put_back(connection)
        ended = connection.scalar(select(func.max(jobs.c.history_seq))) or 0
        connection.commit()
        forget_unsaved(file)
        keeping = Keeping(file)
        writer = Writer(connection, connect, retention, place, keeping.check, SqliteDriver())
    except Exception as error:
        if connection is not None:
            connection.close()
        engine.dispose()
        lock.release()
        raise store_error(error, place) from error
    recent = RecentEntries(history_limit, history_max_age_days)

    def release() -> None:
        keeping.close()
        lock.release()

    return SqlJobStore(engine, writer, place, release=release, recent=recent, ended=ended, keeping=keeping)


def _put_back(connection: Connection) -> None:
    """Nothing runs when a store is opened: what ran when the last server ended is pending again."""
    running = jobs.c.status == JobStatus.IN_PROGRESS.value
    if connection.scalar(select(jobs.c.seq).where(running).limit(1)) is not None:
        connection.execute(
            update(jobs).where(running).values(status=JobStatus.PENDING.value, started_at=None)
        )
