"""Model files with their sizes and times, and the pictures that belong to them. All of it may block."""

from __future__ import annotations

import base64
import binascii
import json
import os
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from comfyk.api import content_type
from comfyk.folders import Folders, join_names, resolve_inside

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


def list_files(folders: Folders, kind: str) -> list[ModelFile]:
    """The files of a kind, folder by folder, without hidden ones. Raises KeyError for an unknown kind."""
    return [
        file
        for index, (root, names) in enumerate(folders.files(kind))
        for name in names
        if not _is_hidden(name) and (file := _look_at(root, index, name)) is not None
    ]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or "/." in name


def _look_at(root: Path, index: int, name: str) -> ModelFile | None:
    try:
        stat = os.stat(root / name)
    except OSError:  # gone since, or a link to nowhere
        return None
    return ModelFile(name, index, stat.st_mtime, stat.st_ctime, stat.st_size)


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
