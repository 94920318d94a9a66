"""What `comfyk doctor` says of the database.

Nothing is changed, and no file is created but where a server was killed, or runs: then SQLite keeps its index of the
changes that are not in the file yet (`-shm`) as it needs it.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from comfyk.doctor import Finding
from comfyk.jobs import StoreError
from sqlalchemy import URL, inspect

from comfyk_storage.damage import SET_ASIDE
from comfyk_storage.engine import open_engine, parse_url, sqlite_path
from comfyk_storage.errors import describe, store_error
from comfyk_storage.lock import holder_of
from comfyk_storage.migrations import JOBS, current_revision, known_revisions

_LITTLE, _TOO_LITTLE = 1_000_000_000, 50_000_000
"""Bytes left on the disk."""
_CHECKED_UP_TO = 500_000_000
"""Bytes of a SQLite file that is read whole."""


def diagnose(database_url: str) -> Iterator[Finding]:
    """What is wrong with the jobs' database."""
    try:
        url = parse_url(database_url)
        file = sqlite_path(url)
        if file is None:
            yield from _postgres(url)
        else:
            yield from _disk(file)
            yield from _sqlite(url, file)
    except StoreError as error:
        yield Finding("error", str(error))


def _disk(file: Path) -> Iterator[Finding]:
    folder = next(folder for folder in file.parents if folder.is_dir())
    if not os.access(file if file.exists() else folder, os.W_OK) or not os.access(folder, os.W_OK):
        yield Finding(
            "error",
            f"The database {file} cannot be written.",
            "Make the file and its folder writable for this user, or set storage.database_url to another place.",
        )
    free = shutil.disk_usage(folder).free
    if free < _LITTLE:
        yield Finding(
            "error" if free < _TOO_LITTLE else "warning",
            f"The disk with the database {file} has {free / 1e6:,.0f} MB left. No prompt is taken in once it is full.",
            "Free some space, or lower storage.history_limit.",
        )


def _sqlite(url: URL, file: Path) -> Iterator[Finding]:
    if not file.exists():
        return
    in_use = holder_of(file.with_name(file.name + ".lock"), file)
    if in_use is not None:
        yield Finding("info", in_use, "That is as it should be while a server runs here.")
    place = describe(url, file)
    try:
        # Without the engine: what is only looked at must be changed neither by a connection nor by its settings.
        found = _look(file)
    except sqlite3.Error as error:
        raise store_error(error, place) from error
    yield from _schema(place, found.tables, found.revision)
    yield from _set_aside(place, found.set_aside)
    if found.damage is not None:
        yield Finding(
            "error",
            f"{place} is damaged: {found.damage}",
            "Restore a backup, or try `sqlite3 FILE .recover`.",
        )


@dataclass(slots=True)
class _Looked:
    tables: set[str]
    revision: str | None
    damage: str | None
    set_aside: list[str]


def _look(file: Path) -> _Looked:
    """Raises sqlite3.Error."""
    unwatched = _is_unwatched(file)
    # Even who only reads makes `-wal` and `-shm` beside such a file, unless it is sure not to change.
    mode = "mode=ro&immutable=1" if unwatched else "mode=ro"
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?{mode}", uri=True, timeout=1)) as connection:
            found = _read(connection, file)
    except sqlite3.Error:
        if not unwatched or _is_unwatched(file):
            raise
        return _look(file)
    if unwatched and found.damage is not None and not _is_unwatched(file):
        return _look(file)  # a server has started meanwhile
    return found


def _is_unwatched(file: Path) -> bool:
    """Whether it is a file with a write-ahead log, and the log is gone: nobody has it open."""
    with file.open("rb") as opened:
        head = opened.read(20)
    return head[18:20] == b"\2\2" and not file.with_name(file.name + "-wal").exists()


def _read(connection: sqlite3.Connection, file: Path) -> _Looked:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    revision = None
    if JOBS.version_table in tables:
        found = connection.execute(f"SELECT version_num FROM {JOBS.version_table}").fetchone()  # noqa: S608
        revision = found and found[0]
    damage = "ok"
    if file.stat().st_size <= _CHECKED_UP_TO:
        damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    set_aside = []
    if damage == "ok" and "comfyk_jobs" in tables:
        set_aside = [str(job_id) for (job_id,) in connection.execute(SET_ASIDE)]
    return _Looked(tables, revision, None if damage == "ok" else damage, set_aside)


def _postgres(url: URL) -> Iterator[Finding]:
    place = describe(url, None)
    engine = open_engine(url, synchronous="normal", busy_timeout_s=1)
    try:
        with engine.connect() as connection:
            tables = set(inspect(connection).get_table_names())
            revision = current_revision(connection, JOBS) if JOBS.version_table in tables else None
            found = connection.exec_driver_sql(SET_ASIDE).scalars() if revision == JOBS.head else ()
            set_aside = list(found)
        yield from _schema(place, tables, revision)
        yield from _set_aside(place, set_aside)
    except Exception as error:
        raise store_error(error, place) from error
    finally:
        engine.dispose()


def _set_aside(place: str, ids: list[str]) -> Iterator[Finding]:
    if ids:
        yield Finding(
            "warning",
            f"{place} holds {len(ids)} jobs that could not be read, and were set aside as failed: "
            f"{', '.join(ids[:5])}{' ...' if len(ids) > 5 else ''}.",
            "Queue them anew. What is left of each is in its row's column `body`; it goes when the job is deleted from "
            "the history.",
        )


def _schema(place: str, tables: set[str], revision: str | None) -> Iterator[Finding]:
    if JOBS.version_table not in tables:
        if JOBS.tables & tables:
            yield Finding(
                "error",
                f"{place} has a table {min(JOBS.tables & tables)} that this program did not make.",
                "Set storage.database_url to another database.",
            )
    elif revision not in known_revisions(JOBS):
        yield Finding(
            "error",
            f"{place} is from a newer version of comfyk-storage (revision {revision}; this one knows up to "
            f"{JOBS.head}).",
            "Upgrade comfyk-storage, or set storage.database_url to another database.",
        )
    elif revision != JOBS.head:
        yield Finding(
            "info",
            f"{place} is at revision {revision}; it is upgraded to {JOBS.head} at the next start.",
            "A copy of a SQLite file is kept beside it; make one of a PostgreSQL database yourself.",
        )
