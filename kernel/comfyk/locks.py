"""Locks on files, between processes: exclusive, and let go of by the system when a process ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["hold_lock", "try_lock"]

_PATIENCE_S = 10.0
_PAUSE_S = 0.01

_HELD = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK})
"""What the system says of a lock that somebody holds; EDEADLK is Windows' word for it."""

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        # A byte far beyond any text, so that what is in the file stays readable for others.
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def try_lock(descriptor: int) -> bool:
    """Lock an open file until it is closed; False when somebody else holds it, in another process or in this one.

    Raises OSError when the file cannot be locked at all, as on some network file systems.
    """
    try:
        _lock(descriptor)
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise
    return True


@contextlib.contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`, which is made and deleted again; waits for whoever holds it, ten seconds at most.

    Where files cannot be locked nobody is kept out. Raises OSError: TimeoutError when it was not to be had, else
    because the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _take(path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows deletes no file that is open
            path.unlink()
        os.close(descriptor)


def _take(path: Path) -> int:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if _locked(descriptor) and _is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise TimeoutError(
                errno.ETIMEDOUT, "another process holds it; try again once that has ended", str(path)
            )
        time.sleep(_PAUSE_S)


def _locked(descriptor: int) -> bool:
    try:
        return try_lock(descriptor)
    except OSError:
        return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether it is still the file of that name: whoever held it before has deleted it."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
