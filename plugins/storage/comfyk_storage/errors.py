"""What went wrong in the database, said so that its owner knows what to do next."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from comfyk.jobs import StoreError
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

_LOCKED = "another program has locked it. Close that program, or raise storage.busy_timeout_s"
_SQLITE_ADVICE = {
    "SQLITE_FULL": "the disk is full (or the database has reached its size limit). Free some space, "
    "and try again",
    "SQLITE_BUSY": _LOCKED,
    "SQLITE_LOCKED": _LOCKED,
    "SQLITE_READONLY": "it cannot be written. Make the file and its folder writable for this user, "
    "or set storage.database_url to another place",
    "SQLITE_PERM": "it may not be opened. Make the file and its folder writable for this user",
    "SQLITE_CANTOPEN": "it cannot be opened. Check that it is a file, and that its folder is writable for "
    "this user",
    "SQLITE_NOTADB": "it is not a SQLite database. It was left as it is: move it away to start with an empty "
    "one, or set storage.database_url to another file",
    "SQLITE_CORRUPT": "the database is damaged. It was left as it is: restore a backup, try "
    "`sqlite3 FILE .recover`, or move it away to start with an empty one",
    "SQLITE_IOERR": "the disk could not be read or written. Check the disk, and try again",
}


class BusyError(StoreError):
    """The database was locked by another program for longer than the busy timeout."""


class DisconnectedError(StoreError):
    """The connection to the database server was lost; it is unknown whether the last change was kept."""


class ConflictError(StoreError):
    """Another server's change was in the way; the same change may succeed now."""


def store_error(error: Exception, place: str) -> StoreError:
    """The StoreError that says what `error` means for the database at `place`."""
    if isinstance(error, StoreError):
        return error
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return DisconnectedError(
            f"{place}: the connection was lost ({_line(cause)}). It is opened anew as needed."
        )
    state = getattr(cause, "sqlstate", None)
    if state in ("40001", "40P01"):
        return ConflictError(f"{place}: another server's change was in the way. Try again ({_line(cause)}).")
    if state == "55P03":
        return BusyError(f"{place}: {_LOCKED} ({_line(cause)}).")
    if isinstance(cause, sqlite3.Error):
        name = getattr(cause, "sqlite_errorname", "")
        for prefix, advice in _SQLITE_ADVICE.items():
            if name.startswith(prefix):
                kind = BusyError if prefix in ("SQLITE_BUSY", "SQLITE_LOCKED") else StoreError
                return kind(f"{place}: {advice} ({_line(cause)}).")
    return StoreError(f"{place}: {_line(cause)}")


def describe(url: URL, path: Path | None) -> str:
    """The database in words, without its password."""
    return f"The database {path if path is not None else url.render_as_string(hide_password=True)}"


def _line(error: BaseException | None) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__
