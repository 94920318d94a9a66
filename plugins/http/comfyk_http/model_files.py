"""Model files with their sizes and times, and the pictures that belong to them. All of it may block."""

from __future__ import annotations

import base64
import binascii
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from comfyk.api import content_type
from comfyk.folders import FolderKind, Folders, join_names, resolve_inside

from comfyk_http.safetensors_header import read_metadata

HIDDEN_KINDS = frozenset({"configs", "custom_nodes"})
"""Kinds that hold no models."""


@dataclass(slots=True)
class ModelFile:
    """As `/experiment/models/{folder}` lists it; times in seconds since the epoch."""

    name: str
    pathIndex: int
    """In which of the kind's folders it is."""
    modified: float
    created: float
    size: int


@dataclass(slots=True)
class _Names:
    """The names found under one folder, good while none of the directories changes."""

    directories: dict[str, int]
    extensions: frozenset[str]
    names: list[str]
    settled: bool
    """Whether the last change was long enough before: one that came right after may have left the same time."""


_CLOCK_TICK_NS = 50_000_000


class ModelFiles:
    """Lists model files. Directories are read again when they have changed; sizes and times always are."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders
        self._kept: dict[Path, _Names] = {}

    def list(self, kind: str) -> list[ModelFile]:
        """The files of a kind, folder by folder. Raises KeyError for an unknown kind."""
        entry = self._folders.kinds[self._folders.canonical(kind)]
        return [file for index, root in enumerate(entry.paths) for file in self._files(root, index, entry)]

    def _files(self, root: Path, index: int, kind: FolderKind) -> Iterator[ModelFile]:
        for name in self._names(root, kind.extensions):
            with suppress(OSError):  # gone since, or a link to nowhere
                stat = os.stat(root / name)
                yield ModelFile(name, index, stat.st_mtime, stat.st_ctime, stat.st_size)

    def _names(self, root: Path, extensions: frozenset[str]) -> list[str]:
        kept = self._kept.get(root)
        if (
            kept is None
            or not kept.settled
            or kept.extensions != extensions
            or not _unchanged(kept.directories)
        ):
            kept = self._kept[root] = _walk(root, extensions)
        return kept.names


def _unchanged(directories: dict[str, int]) -> bool:
    return all(_mtime(path) == mtime for path, mtime in directories.items())


def _mtime(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def _walk(root: Path, extensions: frozenset[str]) -> _Names:
    directories: dict[str, int] = {str(root): _mtime(str(root))}
    names: list[str] = []
    begun = time.time_ns()
    seen: set[str] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back up
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in subfolders:
            path = os.path.join(folder, name)
            directories[path] = _mtime(path)
        for name in files:
            if name.startswith(".") or (extensions and os.path.splitext(name)[1].lower() not in extensions):
                continue
            names.append(os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/"))
    settled = max(directories.values(), default=0) < begun - _CLOCK_TICK_NS
    return _Names(directories, extensions, sorted(names), settled)


def find_preview(root: Path, filename: str) -> Path | BytesIO | None:
    """The picture of a model: beside it (`name.png`, `name.preview.png`) or inside it. None when there is none.

    `filename` comes from outside, with or without the model's extension. Raises PathOutsideError.
    """
    model = join_names(root, filename)
    directory, stem = model.parent, model.stem
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return None
    pictures = [
        name
        for name in names
        if Path(name).stem in (stem, f"{stem}.preview") and content_type(name).startswith("image/")
    ]
    for name in pictures:
        # A model may be a link to another disk; its picture has no reason to lead elsewhere.
        path = resolve_inside(directory, name)
        if path.is_file():
            return path
    if f"{stem}.safetensors" in names:
        return _embedded(directory / f"{stem}.safetensors")
    return None


def _embedded(model: Path) -> BytesIO | None:
    try:
        metadata = read_metadata(model) or {}
        images = json.loads(metadata.get("ssmd_cover_images") or "[]")
        return BytesIO(base64.b64decode(images[0])) if images else None
    except (OSError, ValueError, TypeError, KeyError, IndexError, binascii.Error, RecursionError):
        return None
