"""Looking into folders that anybody may have put anything into: what cannot be read is left out, with one warning.

A link that leads to itself, or to where the disk is gone or this user may not go, raises out of nearly all that Python
offers for folders. Plugins find these functions in `comfyk.folders`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

_MOST_WARNINGS = 1000

_warned: set[str] = set()


def is_file(entry: Path | os.DirEntry[str]) -> bool:
    """Whether there is a file, or a link to one. Never raises."""
    try:
        return entry.is_file()
    except OSError as error:
        _leave_out(os.fspath(entry), error)
        return False


def is_folder(entry: Path | os.DirEntry[str]) -> bool:
    """Whether there is a folder, or a link to one. Never raises."""
    try:
        return entry.is_dir()
    except OSError as error:
        _leave_out(os.fspath(entry), error)
        return False


def entries_of(folder: Path | str) -> list[os.DirEntry[str]]:
    """What is in a folder; nothing where there is none. Never raises."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        _leave_out(os.fspath(folder), error)
        return []


def walk(
    top: Path | str, *, follow_links: bool = True, left_out: list[str] | None = None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Like `os.walk`: each folder with the sorted names of its folders, which may be changed, and those of its files.

    No folder comes twice, wherever links lead. Links that lead nowhere are no files; what was left out is added to
    `left_out`. Never raises.
    """
    waiting = [os.fspath(top)]
    seen: set[tuple[int, int]] = set()
    while waiting:
        folder = waiting.pop()
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                folders, files = _sorted_out(list(entries), follow_links, left_out)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                _leave_out(folder, error, left_out)
            continue
        yield folder, folders, files
        waiting.extend(os.path.join(folder, name) for name in reversed(folders))


def _sorted_out(
    entries: list[os.DirEntry[str]], follow_links: bool, left_out: list[str] | None
) -> tuple[list[str], list[str]]:
    folders: list[str] = []
    files: list[str] = []
    for entry in entries:
        try:
            if not entry.is_symlink():
                (folders if entry.is_dir() else files).append(entry.name)
            elif not entry.is_dir():
                entry.stat()  # raises when it leads nowhere
                files.append(entry.name)
            elif follow_links:
                folders.append(entry.name)
        except OSError as error:
            _leave_out(entry.path, error, left_out)
    folders.sort()
    return folders, files


def _leave_out(path: str, error: OSError, left_out: list[str] | None = None) -> None:
    if left_out is not None:
        left_out.append(path)
    if path not in _warned and len(_warned) < _MOST_WARNINGS:
        _warned.add(path)
        log.warning("%s is left out, it cannot be read: %s", path, error.strerror or error)
