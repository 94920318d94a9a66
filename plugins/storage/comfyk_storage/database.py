"""Databases of plugins' own: beside the jobs' SQLite file one for each, in the jobs' PostgreSQL a schema for each."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from comfyk.database import DatabaseError
from comfyk.jobs import StoreError
from sqlalchemy import URL, Engine, text

from comfyk_storage.engine import Synchronous, make_sqlite_file, open_engine, parse_url, sqlite_path
from comfyk_storage.errors import describe, store_error
from comfyk_storage.lock import FileLock
from comfyk_storage.migrations import Schema, plugin_schema, prepare

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_CONNECTIONS = 5
"""Of a plugin, at a time."""


class PluginDatabase:
    """A `Database` that is open."""

    def __init__(self, engine: Engine, release: Callable[[], None]) -> None:
        """For `open_database`. `release` is called when all connections are closed."""
        self.engine = engine
        self._release = release

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
        self._release()


def open_database(
    database_url: str, name: str, migrations: Path | None, *, synchronous: Synchronous, busy_timeout_s: float
) -> PluginDatabase:
    """Open the database `name` that belongs to the jobs' at `database_url`, and bring it up to date.

    Blocks for some milliseconds, longer when alembic is needed. Raises DatabaseError.
    """
    if not _NAME.fullmatch(name):
        raise DatabaseError(
            f"{name!r} cannot be a database's name. Use lower-case letters, digits and _, a letter first, 40 at most."
        )
    try:
        schema = None if migrations is None else plugin_schema(name, migrations)
        url = parse_url(database_url)
        file = sqlite_path(url)
        if file is None:
            return _open_schema(url, f"comfyk_{name}", schema, busy_timeout_s)
        return _open_file(file, name, schema, synchronous, busy_timeout_s)
    except (StoreError, OSError, SyntaxError, ValueError) as error:
        raise DatabaseError(f"The database {name!r} cannot be opened. {error}") from error


def _open_file(
    jobs_file: Path, name: str, schema: Schema | None, synchronous: Synchronous, busy_timeout_s: float
) -> PluginDatabase:
    file = jobs_file.with_name(f"{name}.db")
    if file.name.lower() == jobs_file.name.lower():
        raise StoreError(f"{file} is the file of the jobs; choose another name.")
    url = URL.create("sqlite+pysqlite", database=str(file))
    place = describe(url, file)
    make_sqlite_file(file)
    lock = FileLock(file.with_name(file.name + ".lock"), file)
    engine = open_engine(
        url, synchronous=synchronous, busy_timeout_s=busy_timeout_s, connections=_CONNECTIONS
    )
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT count(*) FROM sqlite_master")  # tells what is no database
            connection.rollback()
            if schema is not None:
                prepare(connection, place, file, schema)
    except Exception as error:
        engine.dispose()
        lock.release()
        raise store_error(error, place) from error
    return PluginDatabase(engine, lock.release)


def _open_schema(url: URL, name: str, schema: Schema | None, busy_timeout_s: float) -> PluginDatabase:
    place = f"{describe(url, None)}, schema {name}"
    try:
        _make_schema(url, name, busy_timeout_s)
    except Exception as error:
        raise store_error(error, place) from error
    engine = open_engine(
        url, synchronous="normal", busy_timeout_s=busy_timeout_s, schema=name, connections=_CONNECTIONS
    )
    try:
        if schema is not None:
            with engine.connect() as connection:
                prepare(connection, place, None, schema)
    except Exception as error:
        engine.dispose()
        raise store_error(error, place) from error
    return PluginDatabase(engine, lambda: None)


def _make_schema(url: URL, name: str, busy_timeout_s: float) -> None:
    engine = open_engine(url, synchronous="normal", busy_timeout_s=busy_timeout_s, connections=1)
    try:
        with engine.begin() as connection:
            found = text("SELECT to_regnamespace(:name)")
            if connection.scalar(found, {"name": name}) is not None:
                return
            # IF NOT EXISTS alone fails where two servers come to it at once.
            lock = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")
            connection.execute(lock, {"name": name})
            connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {name}")
    finally:
        engine.dispose()
