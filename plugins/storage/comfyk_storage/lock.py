"""One server per database: two of them would run every job twice.

Beside a SQLite file `NAME.lock` is locked for as long as the store is open; the system lets go of it when the
process ends, however it ends. In PostgreSQL an advisory lock on the writer's connection does the same.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from comfyk.jobs.store import StoreError
from sqlalchemy import Connection, text

_POSTGRES_KEY = 0x636F6D66796B
"""The advisory lock's number: "comfyk" in ASCII."""


class FileLock:
    """An exclusive lock on a file, which holds the process id of its owner."""

    def __init__(self, path: Path, database: Path) -> None:
        """Raises StoreError when another process (or another store in this one) has it."""
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreError(
                f"The database {database}: {path} cannot be written ({error.strerror}). Make the folder "
                "writable for this user, or set storage.database_url to another place."
            ) from error
        if not _lock(self._fd):
            holder = (
                os.pread(self._fd, 32, 0).decode(errors="replace").strip() if hasattr(os, "pread") else ""
            )
            os.close(self._fd)
            raise StoreError(
                f"The database {database} is in use by another comfyk (process {holder or 'unknown'}, which "
                f"holds {path}). Stop that one, or give this one its own with storage.database_url."
            )
        os.ftruncate(self._fd, 0)
        os.write(self._fd, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Let go. The file stays: deleting it would let two owners lock two different files."""
        os.close(self._fd)


def lock_postgres(connection: Connection) -> None:
    """Take the database's advisory lock for the life of `connection`. Raises StoreError when it is taken."""
    taken = connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _POSTGRES_KEY})
    if taken:
        connection.commit()
        return
    holder = connection.execute(
        text(
            "SELECT a.application_name, a.client_addr "
            "FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid "
            "WHERE l.locktype = 'advisory' AND l.granted AND l.database = a.datid "
            "AND ((l.classid::bigint << 32) | l.objid::bigint) = :key"
        ),
        {"key": _POSTGRES_KEY},
    ).first()
    who = f"{holder[0]}, connected from {holder[1] or 'this machine'}" if holder else "unknown"
    raise StoreError(
        f"The PostgreSQL database {connection.engine.url.database} is in use by another comfyk ({who}). "
        "Stop that one, or give this one its own database with storage.database_url."
    )


if sys.platform == "win32":
    import msvcrt

    def _lock(fd: int) -> bool:
        # A byte far beyond the text, so that the process id stays readable for others.
        os.lseek(fd, 1 << 20, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        os.lseek(fd, 0, os.SEEK_SET)
        return True
else:
    import fcntl

    def _lock(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
