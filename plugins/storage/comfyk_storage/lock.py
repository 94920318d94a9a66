"""One server per SQLite file: two of them would run every job twice.

Beside the file `NAME.lock` is locked for as long as it is open; the system lets go of it when the process ends,
however it ends.
"""

from __future__ import annotations

import os
from pathlib import Path

from comfyk.jobs import StoreError
from comfyk.locks import try_lock


class FileLock:
    """An exclusive lock on a file, which holds the process id of its owner."""

    def __init__(self, path: Path, database: Path) -> None:
        """Raises StoreError when another process (or another store in this one) has it, or the file has no locks."""
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise _not_writable(path, database, error) from error
        try:
            _lock(self._fd, path, database)
            try:
                os.ftruncate(self._fd, 0)
                os.write(self._fd, f"{os.getpid()}\n".encode())
            except OSError as error:
                raise _not_writable(path, database, error) from error
        except BaseException:
            os.close(self._fd)
            raise

    def release(self) -> None:
        """Let go. The file stays: deleting it would let two owners lock two different files."""
        os.close(self._fd)


def holder_of(path: Path, database: Path) -> str | None:
    """Who holds the lock file at `path`, in words; None when nobody does. Nothing is written.

    Raises StoreError as `FileLock` does, but for a lock that is held.
    """
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _not_writable(path, database, error) from error
    try:
        return None if _try(descriptor, path, database) else _in_use(descriptor, path, database)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path, database: Path) -> None:
    if not _try(descriptor, path, database):
        raise StoreError(
            f"{_in_use(descriptor, path, database)} Stop that one, or give this one its own with "
            "storage.database_url."
        )


def _try(descriptor: int, path: Path, database: Path) -> bool:
    try:
        return try_lock(descriptor)
    except OSError as error:
        raise StoreError(
            f"The database {database}: {path} cannot be locked ({error.strerror}), so nothing would keep two servers "
            "from running the same jobs. Set storage.database_url to a place on a local disk, or to a PostgreSQL."
        ) from error


def _in_use(descriptor: int, path: Path, database: Path) -> str:
    holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() if hasattr(os, "pread") else ""
    return f"The database {database} is in use by another comfyk (process {holder or 'unknown'}, which holds {path})."


def _not_writable(path: Path, database: Path, error: OSError) -> StoreError:
    return StoreError(
        f"The database {database}: {path} cannot be written ({error.strerror}). Make the folder writable for this "
        "user, or set storage.database_url to another place."
    )
