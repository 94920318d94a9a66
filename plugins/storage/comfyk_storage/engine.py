"""From a database URL to an SQLAlchemy engine, set up for a store that many await and one thread writes."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from comfyk.jobs.store import StoreError
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

READERS = 2
"""Threads that read, each with a connection; the writer has one more."""


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
    """The file of a SQLite URL, `file:` names included; None for other databases."""
    if url.get_backend_name() != "sqlite":
        return None
    assert url.database is not None
    if url.database.startswith("file:"):
        return Path(unquote(url.database.removeprefix("file:")))
    return Path(url.database).absolute()


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


def open_engine(url: URL, *, synchronous: Literal["normal", "full"], busy_timeout_s: float) -> Engine:
    """An engine for `url`, as `parse_url` returns it. Nothing is connected yet."""
    pool: dict[str, Any] = {"pool_size": READERS + 1, "max_overflow": 0}
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": busy_timeout_s}, **pool)
        event.listen(engine, "connect", _sqlite_pragmas(synchronous))
        return engine
    name = f"comfyk, process {os.getpid()} on {socket.gethostname()}"
    try:
        return create_engine(url, connect_args={"application_name": name}, pool_pre_ping=True, **pool)
    except ImportError as error:
        raise StoreError(
            "PostgreSQL needs the driver psycopg. Run `pip install 'comfyk-storage[postgresql]'`."
        ) from error


def still_there(file: Path) -> Callable[[], None]:
    """A check that `file` is the one that it was when this was called; it raises StoreError when it is not.

    A file that is deleted or replaced can be written to as long as it is open, and is gone afterwards.
    """
    opened = file.stat()

    def check() -> None:
        try:
            found = file.stat()
        except OSError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != (opened.st_dev, opened.st_ino):
            raise StoreError(
                f"The database {file} was deleted or replaced while the server runs, so nothing can be kept in it. "
                "Put it back if you can, and start the server again."
            )

    return check


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
