"""Whether the files of a SQLite database are those that it was opened with, and whole.

A file that is deleted, replaced or cut short can be written to as long as it is open, and what was committed is gone
afterwards. SQLite does not look; so the writer does, before and after each commit.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import NamedTuple

from comfyk.jobs import StoreError

_LOG_HEADER, _FRAME_HEADER = 32, 24
"""Bytes, in the format of SQLite's write-ahead log."""
_INDEX = struct.Struct("=12xBxHII8x8s")
"""The beginning of the log's index in the `-shm` file: is it initialized, page size, frames, pages, salt."""
_LOOKS = 3
"""Another program's checkpoint may be under way."""


class FilesGoneError(StoreError):
    """What was committed may be gone: nothing more can be kept in the database."""


class _State(NamedTuple):
    """The identity of a file, and its size."""

    device: int
    inode: int
    size: int


class _Index(NamedTuple):
    """What the log's index says."""

    page_size: int
    frames: int
    """In the log."""
    pages: int
    """Of the database."""
    salt: bytes
    """Which stands in the log's header, and in that of each frame."""

    def end(self, frames: int) -> int:
        """Where the frames of a log end."""
        return _LOG_HEADER + frames * (self.page_size + _FRAME_HEADER)


class DatabaseFiles:
    """The file, its log and the log's index, of a database that this process alone writes to."""

    def __init__(self, file: Path) -> None:
        """Once the database is open. `close` when all its connections are closed, and not before."""
        self._file = file
        self._paths = {name: f"{file}{end}" for name, end in (("db", ""), ("log", "-wal"), ("index", "-shm"))}
        self._known: dict[str, _State] = {}
        self._descriptors: dict[str, int] = {}
        self._last: _Index | None = None
        self.check()

    def check(self) -> None:
        """Raises FilesGoneError when a file is not what it was, or shorter than what was committed to it."""
        short = None
        for _ in range(_LOOKS):
            found = {name: _look(path) for name, path in self._paths.items()}
            for name, known in self._known.items():
                state = found[name]
                if state is None or state[:2] != known[:2]:
                    raise self._gone(name, "was deleted or replaced")
            index = self._read_index()
            short = self._short(found, index)
            if short is None:
                self._known.update({name: state for name, state in found.items() if state is not None})
                self._last = index
                self._open()
                return
        raise self._gone(str(short), "was cut short")

    def _open(self) -> None:
        # Not closed before SQLite has closed the file: a process that closes any descriptor of a file loses the locks
        # that it has on it.
        for name in ("log", "index"):
            if name in self._known and name not in self._descriptors and hasattr(os, "pread"):
                self._descriptors[name] = os.open(self._paths[name], os.O_RDONLY)

    def _short(self, found: dict[str, _State | None], index: _Index | None) -> str | None:
        """The file that is shorter than what was committed to it, or was until it was written to again."""
        log, file = found["log"], found["db"]
        if index is None or log is None or file is None:
            return None
        if index.frames:
            if log.size < index.end(index.frames):
                return "log"
            last = self._last
            known = last.frames if last is not None and last.salt == index.salt else index.frames
            places = [16, index.end(min(known, index.frames) - 1) + 8] if known else [16]
            if any(os.pread(self._descriptors["log"], 8, place) != index.salt for place in places):
                return "log"
        if file.size < min(self._known["db"].size, index.pages * index.page_size):
            return "db"
        return None

    def _read_index(self) -> _Index | None:
        descriptor = self._descriptors.get("index")
        if descriptor is None or "log" not in self._descriptors:
            return None
        head = os.pread(descriptor, _INDEX.size, 0)
        if len(head) < _INDEX.size:
            return None
        ready, page_size, frames, pages, salt = _INDEX.unpack(head)
        if not ready:
            return None
        return _Index(65536 if page_size == 1 else page_size, frames, pages, salt)

    def _gone(self, name: str, what: str) -> FilesGoneError:
        return FilesGoneError(f"The database {self._file}: {self._paths[name]} {what} while the server runs")

    def close(self) -> None:
        """When SQLite has closed the files."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()


def _look(path: str) -> _State | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return _State(status.st_dev, status.st_ino, status.st_size)
