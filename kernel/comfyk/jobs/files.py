"""The files of a job: those that its outputs show, and those of them that it wrote itself.

Outputs are what nodes and their authors say: names are not to be trusted, here as little as from a client.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from comfyk.folders import Folders, PathOutsideError, resolve_inside
from comfyk.jobs.outputs import named_files

log = logging.getLogger(__name__)

_PLACES = ("output", "temp")
_SLACK_NS = 20_000_000
"""File systems take the time of a write from a clock that may be a tick behind."""
_COARSE_NS = 2_000_000_000
"""The same for one that keeps seconds, or every other second."""
_SECOND_NS = 1_000_000_000


def shown_files(
    outputs: Any, folders: Folders, types: Collection[str] = _PLACES, without: Collection[str] = ()
) -> Iterator[Path]:
    """The files below those folders that outputs (node id -> its ui output) name, there or not.

    Names that lead out of their folder are passed over, and so are the nodes `without`.
    """
    if not isinstance(outputs, Mapping):
        return
    for node_id, item in named_files(outputs):
        filename, subfolder, type = (item.get(key, "") for key in ("filename", "subfolder", "type"))
        if node_id in without or type not in types or type not in _PLACES:
            continue
        if isinstance(filename, str) and filename and isinstance(subfolder or "", str):
            root = folders.directory(type)
            try:
                path = resolve_inside(root, subfolder or "", filename)
            except (PathOutsideError, OSError, ValueError):
                continue
            if path != root:
                yield path


def written_files(entry: Any, folders: Folders) -> list[Path]:
    """The files below output and temp that a job wrote, told by its history entry, and that are as it left them.

    A node whose kept result was shown again wrote nothing. What a node only shows was there before the job ran; what
    somebody has changed since is theirs.
    """
    if not isinstance(entry, Mapping):
        return []
    status = entry.get("status")
    messages = status.get("messages") if isinstance(status, Mapping) else None
    started, ended, cached = _told(messages if isinstance(messages, list) else ())
    if started is None or ended is None:
        return []
    found = dict.fromkeys(shown_files(entry.get("outputs"), folders, without=cached))
    return [path for path in found if _written_between(path, started, ended)]


def remove(paths: Iterable[Path]) -> int:
    """Delete files, and say in the log what cannot be; returns how many were. It blocks."""
    removed = 0
    for path in paths:
        try:
            path.unlink()
            removed += 1
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("%s cannot be deleted: %s", path, error.strerror or error)
    return removed


def _told(messages: Iterable[Any]) -> tuple[int | None, int | None, set[str]]:
    """When the job began and ended, in milliseconds, and the nodes whose results were kept from before."""
    started = ended = None
    cached: set[str] = set()
    for message in messages:
        kind, data = message if isinstance(message, list | tuple) and len(message) == 2 else (None, None)
        if not isinstance(data, Mapping):
            continue
        time = data.get("timestamp")
        if isinstance(time, int) and not isinstance(time, bool):
            ended = time
            if kind == "execution_start":
                started = time
        if kind == "execution_cached" and isinstance(nodes := data.get("nodes"), list):
            cached.update(node for node in nodes if isinstance(node, str))
    return started, ended, cached


def _written_between(path: Path, started_ms: int, ended_ms: int) -> bool:
    try:
        status = os.lstat(path)
    except (OSError, ValueError):
        return False
    time = status.st_mtime_ns
    slack = _COARSE_NS if time % _SECOND_NS == 0 else _SLACK_NS
    begun, over = started_ms * 1_000_000 - slack, (ended_ms + 1) * 1_000_000 + slack
    return stat.S_ISREG(status.st_mode) and begun <= time <= over
