"""Files that clients send: written to a hidden file as they come, put in their place whole, never over another.

Nothing here knows HTTP. All of it may block and belongs into threads, but for `ReceivedFile.write`, which hands large
pieces to one.
"""

from __future__ import annotations

import asyncio
import errno
import filecmp
import logging
import os
import shutil
import sys
import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

from comfyk.atomic import UNFINISHED
from comfyk.folders import Folders, resolve_inside
from comfyk.generation import FOLDER as GENERATIONS
from comfyk.locks import try_lock

log = logging.getLogger(__name__)

F = TypeVar("F")

_PREFIX = ".comfyk-upload-"
_PIECE = 1024 * 1024
_LEFTOVER_AGE, _WRITTEN_AGE = 24 * 3600, 600
"""Seconds."""
_MOST_ENTRIES = 300_000
"""Files and folders of one root that are looked at for leftovers, give or take a folder."""


def is_leftover(name: str) -> bool:
    """Whether it is the name of a file that is arriving or being written, or of one that never was whole."""
    return name.startswith(_PREFIX) or _is_written(name)


def _is_written(name: str) -> bool:
    """Whether it is the name that `comfyk.atomic.write_file` gives a file that is not whole yet."""
    return name.startswith(".") and name.endswith(UNFINISHED)


def remove_leftovers(folders: Folders) -> None:
    """Remove what uploads, and files that were being written, left behind in whatever subfolder at a kill.

    A file that is arriving is locked by whoever receives it, which may be another server with the same folders. Where
    files cannot be locked, one that nothing was added to for a day goes. Of what was being written, ten minutes old
    ones go: that takes moments.

    Links are not followed; in folders of hundreds of thousands of files not all subfolders are looked at. Blocks.
    """
    packages = folders.user / GENERATIONS
    for root in (folders.input, folders.output, folders.temp, folders.user):
        for entry in _files_below(root, packages):
            with suppress(OSError):
                if _is_left(entry.path):
                    os.unlink(entry.path)
                    log.info("removed %s, which never was whole", entry.path)


def _is_left(path: str) -> bool:
    if _is_written(os.path.basename(path)):
        return time.time() - os.stat(path).st_mtime > _WRITTEN_AGE
    with open(path, "rb") as file:
        try:
            return try_lock(file.fileno())
        except OSError:
            return time.time() - os.fstat(file.fileno()).st_mtime > _LEFTOVER_AGE


def _files_below(root: Path, but: Path) -> Iterator[os.DirEntry[str]]:
    """The files of unfinished uploads, those of the upper folders first; the folder `but` is left out."""
    folders = deque([str(root)])
    seen = 0
    while folders and seen < _MOST_ENTRIES:
        with suppress(OSError), os.scandir(folders.popleft()) as entries:
            for entry in entries:
                seen += 1
                if is_leftover(entry.name):
                    if entry.is_file(follow_symlinks=False):
                        yield entry
                elif entry.is_dir(follow_symlinks=False) and entry.path != str(but):
                    folders.append(entry.path)


class ReceivedFile:
    """A file from a client, under a hidden name: `place` it or `put` it somewhere; otherwise nothing of it stays."""

    def __init__(self, folder: Path, name: str = "") -> None:
        """Begin a hidden file in `folder`, best the one where it will stay. Raises OSError."""
        self.name = name
        """As the client calls it: check it before you use it (`place` does)."""
        self.size = 0
        """Bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self._file = _new_file(folder)
        self._held: int | None = None
        """A descriptor that keeps the file locked once it is written."""
        self._pieces: list[bytes] = []
        self._length = 0

    def __enter__(self) -> ReceivedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._let_go()
        self.path.unlink(missing_ok=True)

    async def write(self, data: bytes) -> None:
        """Append; the disk is written to in a thread. Raises OSError."""
        self._pieces.append(data)
        self._length += len(data)
        self.size += len(data)
        if self._length >= _PIECE:
            await asyncio.to_thread(self._write_out)

    def finish(self) -> None:
        """All has come; `path` can be read from now on. Raises OSError."""
        self._write_out()
        if sys.platform != "win32":  # which moves no file that is open
            self._held = os.dup(self._file.fileno())
        self._file.close()

    def _let_go(self) -> None:
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def _write_out(self) -> None:
        self._file.writelines(self._pieces)
        self._pieces.clear()
        self._length = 0

    def place(self, root: Path, subfolder: str, filename: str, *, overwrite: bool) -> str:
        """Move the file to `root/subfolder/filename`, and return the name it got.

        If there is another file of that name and not `overwrite`, the new one becomes `name (1).png` and so on;
        if that very content is there already, its name is returned and nothing is stored.
        Raises PathOutsideError and OSError.
        """
        wanted = resolve_inside(root, subfolder, filename)
        if wanted == resolve_inside(root, subfolder):
            raise IsADirectoryError(errno.EISDIR, "no file name was given", filename)
        wanted.parent.mkdir(parents=True, exist_ok=True)
        self._move_near(wanted.parent)
        if overwrite:
            self.path.replace(wanted)
            return filename
        stem, suffix = os.path.splitext(filename)
        name, count = filename, 0
        while True:
            target = resolve_inside(root, subfolder, name)
            if target.is_file() and filecmp.cmp(self.path, target, shallow=False):
                return name
            if not os.path.lexists(target) and claim(self.path, target):
                return name
            count += 1
            name = f"{stem} ({count}){suffix}"

    def put(self, target: Path, *, overwrite: bool) -> None:
        """Move the file to `target`. Raises FileExistsError and other OSErrors."""
        if target.is_dir():
            raise FileExistsError(errno.EEXIST, "a folder has this name", target.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        self._move_near(target.parent)
        if overwrite:
            self.path.replace(target)
        elif not claim(self.path, target):
            raise FileExistsError(errno.EEXIST, "File already exists", target.name)

    def _move_near(self, folder: Path) -> None:
        """See to it that the hidden file is on the disk of `folder`, from where a rename is atomic."""
        if os.stat(self.path).st_dev == os.stat(folder).st_dev:
            return
        near = folder / self.path.name
        far, self.path = self.path, near
        try:
            self._let_go()
            with open(near, "xb") as copy, far.open("rb") as source:
                _lock(copy)
                shutil.copyfileobj(source, copy, _PIECE)
                if sys.platform != "win32":
                    self._held = os.dup(copy.fileno())
        finally:
            far.unlink(missing_ok=True)


def _new_file(folder: Path) -> tuple[Path, BinaryIO]:
    """A hidden file, locked, so that no other server of these folders takes it for a leftover."""
    while True:
        path = folder / f"{_PREFIX}{uuid.uuid4().hex}"
        file = open(path, "xb")  # noqa: SIM115
        _lock(file)
        if path.exists():  # another server may have removed it just before it was locked
            return path, file
        file.close()


def _lock(file: BinaryIO) -> None:
    with suppress(OSError):  # some file systems cannot: there a leftover is told by its age
        try_lock(file.fileno())


def claim(source: Path, target: Path) -> bool:
    """Give `source` the name `target` unless that is taken; two uploads at once never get the same name."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV):
            raise
        try:  # a file system without hard links
            open(target, "xb").close()
        except FileExistsError:
            return False
        source.replace(target)
    return True


@dataclass(slots=True)
class Form(Generic[F]):
    """A `multipart/form-data` body that came whole."""

    fields: F
    """The fields, checked against the model; that of a file holds the name that the client gave it."""
    files: dict[str, ReceivedFile] = field(default_factory=dict)
    """The files by field."""
