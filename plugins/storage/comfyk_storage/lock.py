"""One server per SQLite file: two of them would run every job twice.

Beside the file `NAME.lock` is locked for as long as it is open; the system lets go of it when the process ends,
however it ends.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from comfyk.jobs import StoreError


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
