"""The files of one user: workflows, style sheets and whatever else the web UI keeps. Nothing leaves their folder.

Everything here may block. Names come from outside; one that leads elsewhere raises PathOutsideError.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfyk.api import ReceivedFile, claim, is_leftover
from comfyk.folders import PathOutsideError, entries_of, is_file, is_folder, resolve_inside


@dataclass(slots=True)
class FileInfo:
    """A file, with its path relative to what was listed."""

    path: str
    size: int
    modified: int
    """Milliseconds since the epoch."""
    created: int


# Where the web UI keeps these. It lists them at each start, also before it has written anything.
_KEPT_BY_THE_UI = ("workflows", "subgraphs")


class UserData:
    """The files in `root`, which need not exist yet."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def locate(self, file: str) -> Path:
        """The path of a file, existing or not. Raises PathOutsideError; the folder itself is no file."""
        path = resolve_inside(self.root, file)
        if path == self.root:
            raise PathOutsideError(f"{file!r} names no file")
        return path

    def find(self, file: str) -> Path:
        """The path of an existing file. Raises FileNotFoundError."""
        path = self.locate(file)
        if not path.is_file():
            raise FileNotFoundError(errno.ENOENT, "File not found", file)
        return path

    def info(self, path: Path, relative_to: Path | None = None) -> FileInfo:
        """Raises OSError."""
        stat = path.stat()
        name = path.relative_to(relative_to or self.root).as_posix()
        return FileInfo(name, stat.st_size, int(stat.st_mtime * 1000), int(stat.st_ctime * 1000))

    def list(self, directory: str, *, recurse: bool) -> list[FileInfo]:
        """The files of a directory by name, without hidden ones. Raises FileNotFoundError."""
        top = resolve_inside(self.root, directory)
        if not top.is_dir():
            if top.parent == self.root and top.name in _KEPT_BY_THE_UI and not top.exists():
                return []
            raise FileNotFoundError(errno.ENOENT, "Directory not found", directory)
        found = []
        for entry in self._walk(top, recurse=recurse, hidden=False):
            if is_file(entry):
                try:
                    found.append(self.info(Path(entry.path), top))
                except OSError:
                    continue
        return sorted(found, key=lambda file: file.path)

    def tree(self, directory: str) -> list[dict[str, Any]]:
        """Everything below a directory, folders first. Raises FileNotFoundError and NotADirectoryError."""
        top = resolve_inside(self.root, directory)
        if not top.exists():
            if top == self.root:
                return []
            raise FileNotFoundError(errno.ENOENT, "Requested path not found", directory)
        if not top.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "Requested path is not a directory", directory)
        found = []
        for entry in self._walk(top, recurse=True, hidden=True):
            line: dict[str, Any] = {
                "name": entry.name,
                "path": Path(entry.path).relative_to(self.root).as_posix(),
                "type": "directory" if is_folder(entry) else "file",
            }
            if line["type"] == "file":
                try:
                    stat = entry.stat()
                except OSError:
                    continue
                line |= {"size": stat.st_size, "modified": stat.st_mtime}
            found.append(line)
        return sorted(found, key=lambda line: (line["type"] != "directory", line["name"].lower()))

    def _walk(self, top: Path, *, recurse: bool, hidden: bool) -> Iterator[os.DirEntry[str]]:
        """Entries below `top`. A link is followed if it stays in the user's folder, but never into a folder."""
        waiting = [str(top)]
        while waiting:
            for entry in entries_of(waiting.pop()):
                if is_leftover(entry.name) or (not hidden and entry.name.startswith(".")):
                    continue
                if entry.is_symlink() and not (is_file(entry) and self._inside(entry.path)):
                    continue
                yield entry
                if recurse and entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)

    def _inside(self, path: str) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.root))

    def write(self, file: str, received: ReceivedFile, *, overwrite: bool) -> Path:
        """Put a file that has arrived into its place. Raises FileExistsError and other OSErrors."""
        path = self.locate(file)
        received.put(path, overwrite=overwrite)
        return path

    def delete(self, file: str) -> None:
        """Raises FileNotFoundError."""
        self.find(file).unlink()

    def move(self, source: str, target: str, *, overwrite: bool) -> Path:
        """Move a file or a folder. Raises FileNotFoundError, FileExistsError and other OSErrors."""
        old, new = self.locate(source), self.locate(target)
        if not old.exists():
            raise FileNotFoundError(errno.ENOENT, "File not found", source)
        if new.is_dir() or (old.is_dir() and new.exists()):
            raise FileExistsError(errno.EEXIST, "File already exists", target)
        new.parent.mkdir(parents=True, exist_ok=True)
        if overwrite or old.is_dir():
            os.replace(old, new)
        elif not claim(old, new):
            raise FileExistsError(errno.EEXIST, "File already exists", target)
        else:
            old.unlink(missing_ok=True)
        return new
