"""Whether the files of a SQLite database are those that it was opened with, and whole.

A file that is deleted, replaced or cut short can be written to as long as it is open, and what was committed is gone
afterwards. SQLite does not look; so the writer does, before and after each commit.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from comfyk.jobs import StoreError

_WAL_HEADER, _FRAME_HEADER = 32, 24
"""Bytes, in the file format of SQLite's write-ahead log."""
_LOOKS = 3
"""Another program's checkpoint may be under way."""
_INDEX = struct.Struct("=12xBxHII")
"""The beginning of the log's index in the `-shm` file: is it initialized, page size, frames, pages."""


class FilesGoneError(StoreError):
    """What was committed may be gone: nothing more can be kept in the database."""


@dataclass(frozen=True, slots=True)
class _State:
    """The identity of a file, and its size."""

    identity: tuple[int, int]
    size: int


class DatabaseFiles:
    """The file, its log and the log's index, of a database that this process alone writes to."""

    def __init__(self, file: Path) -> None:
        """Once the database is open. `close` when all its connections are closed, and not before."""
        self._file = file
        self._paths = {
            name: f"{file}{suffix}" for name, suffix in (("db", ""), ("log", "-wal"), ("index", "-shm"))
        }
        self._known: dict[str, _State] = {}
        self._index = -1
        self.check()

    def check(self) -> None:
        """Raises FilesGoneError when a file is not what it was, or shorter than what was committed to it."""
        short = None
        for _ in range(_LOOKS):
            found = {name: _look(path) for name, path in self._paths.items()}
            for name, known in self._known.items():
                state = found[name]
                if state is None or state.identity != known.identity:
                    raise self._gone(name, "was deleted or replaced")
            short = self._short(found)
            if short is None:
                self._known.update({name: state for name, state in found.items() if state is not None})
                self._open_index()
                return
        raise self._gone(str(short), "was cut short")

    def _open_index(self) -> None:
        if self._index < 0 and "index" in self._known:
            # Not closed before SQLite has closed the file: a process that closes any descriptor of a file loses the
            # locks that it has on it.
            self._index = os.open(self._paths["index"], os.O_RDONLY)

    def _short(self, found: dict[str, _State | None]) -> str | None:
        """The file that is shorter than what was committed to it."""
        log, file, index = found["log"], found["db"], self._read_index()
        if index is None or log is None or file is None:
            return None
        page_size, frames, pages = index
        if frames and log.size < _WAL_HEADER + frames * (page_size + _FRAME_HEADER):
            return "log"
        if file.size < min(self._known["db"].size, pages * page_size):
            return "db"
        return None

    def _read_index(self) -> tuple[int, int, int] | None:
        """The size of a page, the frames in the log, and the pages of the database."""
        if self._index < 0:
            return None
        head = os.pread(self._index, _INDEX.size, 0)
        if len(head) < _INDEX.size:
            return None
        ready, page_size, frames, pages = _INDEX.unpack(head)
        if not ready:
            return None
        return (65536 if page_size == 1 else page_size), frames, pages

    def _gone(self, name: str, what: str) -> FilesGoneError:
        return FilesGoneError(f"The database {self._file}: {self._paths[name]} {what} while the server runs")

    def close(self) -> None:
        """When SQLite has closed the files."""
        if self._index >= 0:
            os.close(self._index)
            self._index = -1


def _look(path: str) -> _State | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return _State((status.st_dev, status.st_ino), status.st_size)
