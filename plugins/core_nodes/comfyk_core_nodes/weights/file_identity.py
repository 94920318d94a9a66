"""What tells a file from another that takes its name, or from itself when it was written to. No torch here."""

from __future__ import annotations

import os
import threading
from collections import Counter
from pathlib import Path
from typing import NamedTuple

_damaged: Counter[str] = Counter()
"""How often a mapping of a file was found damaged while the file itself may be as before: a disk that failed for
a moment. What was loaded from it is not to be taken again."""
_lock = threading.Lock()


class Identity(NamedTuple):
    """Two of the same file, unchanged, are equal."""

    file: tuple[int, int]
    """Device and inode."""
    size: int
    """Bytes."""
    changed: int
    """Time of the last change, in ns."""


def identity_of(file: str | os.PathLike[str] | int) -> Identity:
    """Of a path or a descriptor. Raises OSError."""
    found = os.stat(file)
    return Identity((found.st_dev, found.st_ino), found.st_size, found.st_mtime_ns)


def note_damage(path: Path) -> None:
    """What was loaded from this file so far is no good."""
    with _lock:
        _damaged[str(path)] += 1


def fingerprint_of(path: str | os.PathLike[str]) -> tuple[object, ...]:
    """What a loader's result hangs on, for a cache's key. A file that is not there has one, too."""
    try:
        return (str(path), *identity_of(path), _damaged[str(path)])
    except OSError as error:
        return (str(path), error.errno or 0)
