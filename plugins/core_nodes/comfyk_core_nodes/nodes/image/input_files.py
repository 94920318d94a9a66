"""Files that a node is given by name: pictures, latents. No torch here."""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from pathlib import Path

from comfyk import current_app
from comfyk.folders import PathOutsideError, entries_of, is_file


class InputFileError(ValueError):
    """There is no such file in the folders that a prompt may name."""


def input_files(extensions: Collection[str]) -> list[str]:
    """The files in the input folder itself with one of these extensions (`.png`, lower case), sorted."""
    return sorted(
        entry.name
        for entry in entries_of(current_app().folders.input)
        if os.path.splitext(entry.name)[1].lower() in extensions and is_file(entry)
    )


def find_input(name: str) -> Path:
    """The file for `sub/photo.png [output]`. Raises InputFileError when there is none inside the folder."""
    try:
        path = current_app().folders.annotated(name)
    except PathOutsideError as error:
        raise InputFileError(f"{name} ({error})") from None
    if not is_file(path):
        raise InputFileError(f"{name} (there is no such file; upload it or choose another)")
    return path


def fingerprint(path: Path | None) -> str | float:
    """The SHA-256 of the file; NaN, which is never the same, for None: a name that comes over a link."""
    import hashlib

    if path is None:
        return math.nan
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
