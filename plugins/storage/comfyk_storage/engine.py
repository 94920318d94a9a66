"""From a database URL to an SQLAlchemy engine, set up for a store that many await and one thread writes."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from comfyk.jobs import StoreError
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.util import asbool

Synchronous = Literal["normal", "full"]
READERS = 2
"""Threads that read, each with a connection; the writer has one more."""
_KEEPALIVES = {"idle": 10, "interval": 5, "count": 3}
"""Seconds of silence, seconds between questions, and how many go unanswered before a connection is given up."""


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file, whatever characters its name has."""
    return URL.create("sqlite", database=str(path)).render_as_string()


def parse_url(text: str) -> URL:
    """The URL with its driver. Raises StoreError when no store can be opened there."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise StoreError(
            "storage.database_url is not a database URL. Write sqlite:///PATH or "
            "postgresql://USER:PASSWORD@HOST/NAME."
        ) from error
    kind = url.get_backend_name()
    if kind == "sqlite":
        if url.database in (None, "", ":memory:"):
            raise StoreError("storage.database_url names no file. Write sqlite:///PATH.")
        return url.set(drivername="sqlite+pysqlite")
    if kind in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    raise StoreError(f"storage.database_url: {kind} is not supported. Use sqlite or postgresql.")


def sqlite_path(url: URL) -> Path | None:
    """The file of a SQLite URL, `file:` names of SQLite's own (`uri=true`) included; None for other databases."""
    if url.get_backend_name() != "sqlite":
        return None
    assert url.database is not None
    name = url.database
    if name.startswith("file:") and asbool(url.query.get("uri", "false")):
        name = unquote(name.removeprefix("file:").removeprefix("//localhost"))
    return Path(name).absolute()


def make_sqlite_file(path: Path) -> None:
    """Make the file and its folders, readable for the owner alone; SQLite's other files take its mode.

    Raises StoreError when that cannot be done. A file that exists is not touched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise StoreError(
            f"The database {path} cannot be opened for writing ({error.strerror}). Make the file and its "
            "folder writable for this user, or set storage.database_url to another place."
        ) from error


def open_engine(
    url: URL,
    *,
    synchronous: Synchronous,
    busy_timeout_s: float,
    schema: str | None = None,
    give_way_s: float | None = None,
    connections: int = READERS + 1,
) -> Engine:
    """An engine for `url`, as `parse_url` returns it. Nothing is connected yet.

    PostgreSQL: tables are looked for in `schema`, and made there. A transaction in which this process does nothing for
    `give_way_s` is ended, so that a process that was stopped keeps others waiting no longer.
    """
    pool: dict[str, Any] = {"pool_size": connections, "max_overflow": 0}
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": busy_timeout_s}, **pool)
        event.listen(engine, "connect", _sqlite_pragmas(synchronous))
        return engine
    connect_args: dict[str, Any] = {
        "application_name": f"comfyk, process {os.getpid()} on {socket.gethostname()}",
        # A server that is gone without a word is noticed within half a minute, and so are we there (below).
        "connect_timeout": 10,
        **{f"keepalives_{name}": value for name, value in _KEEPALIVES.items()},
        "tcp_user_timeout": 25_000,
    }
    connect_args = {name: value for name, value in connect_args.items() if name not in url.query}
    try:
        engine = create_engine(url, connect_args=connect_args, pool_pre_ping=True, **pool)
    except ImportError as error:
        raise StoreError(
            "PostgreSQL needs the driver psycopg. Run `pip install 'comfyk-storage[postgresql]'`."
        ) from error
    settings = {
        **{f"tcp_keepalives_{name}": str(value) for name, value in _KEEPALIVES.items()},
        "lock_timeout": f"{max(round(busy_timeout_s * 1000), 1)}ms",
    }
    if give_way_s is not None:
        settings["idle_in_transaction_session_timeout"] = f"{round(give_way_s * 1000)}ms"
    if schema is not None:
        settings["search_path"] = schema
    # Before SQLAlchemy's own, which asks for the schema that tables are in.
    event.listen(engine, "connect", _postgres_settings(settings), insert=True)
    return engine


def _sqlite_pragmas(synchronous: str) -> Any:
    def on_connect(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute(f"PRAGMA synchronous={synchronous.upper()}")
        # Sensitive data is overwritten, not only unlinked, when a job ends.
        cursor.execute("PRAGMA secure_delete=FAST")
        cursor.execute("PRAGMA journal_size_limit=16777216")
        # Up to 8 MB, taken as needed: room for the few hundred entries that the web UI asks for.
        cursor.execute("PRAGMA cache_size=-8000")
        cursor.close()

    return on_connect


def _postgres_settings(settings: dict[str, str]) -> Any:
    def on_connect(connection: Any, _record: Any) -> None:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for name, value in settings.items():
                cursor.execute("SELECT set_config(%s, %s, false)", (name, value))
        connection.autocommit = False

    return on_connect
