"""What `comfyk doctor` says of the database. Nothing is changed, nothing is created."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from comfyk.doctor import Finding
from comfyk.jobs import StoreError
from sqlalchemy import URL, inspect

from comfyk_storage.engine import open_engine, parse_url, sqlite_path
from comfyk_storage.errors import describe, store_error
from comfyk_storage.lock import FileLock
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
    lock_file = file.with_name(file.name + ".lock")
    if lock_file.exists():
        try:
            FileLock(lock_file, file).release()
        except StoreError as error:
            yield Finding("info", str(error), "That is as it should be while a server runs here.")
    place = describe(url, file)
    try:
        # Without the engine: what is only looked at must be changed neither by a connection nor by its settings.
        with sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=1) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            revision = None
            if JOBS.version_table in tables:
                found = connection.execute(f"SELECT version_num FROM {JOBS.version_table}").fetchone()  # noqa: S608
                revision = found and found[0]
            yield from _schema(place, tables, revision)
            if file.stat().st_size <= _CHECKED_UP_TO:
                damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
                if damage != "ok":
                    yield Finding(
                        "error",
                        f"{place} is damaged: {damage}",
                        "Restore a backup, or try `sqlite3 FILE .recover`.",
                    )
        connection.close()
    except sqlite3.Error as error:
        raise store_error(error, place) from error


def _postgres(url: URL) -> Iterator[Finding]:
    place = describe(url, None)
    engine = open_engine(url, synchronous="normal", busy_timeout_s=1)
    try:
        with engine.connect() as connection:
            tables = set(inspect(connection).get_table_names())
            revision = current_revision(connection, JOBS) if JOBS.version_table in tables else None
        yield from _schema(place, tables, revision)
    except Exception as error:
        raise store_error(error, place) from error
    finally:
        engine.dispose()


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
