"""Model files by the names that workflows carry. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from comfyk import current_app


def model_names(kind: str) -> Callable[[], list[str]]:
    """What a combo of this kind of model offers: asked anew each time somebody looks."""
    return partial(_names, kind)


def _names(kind: str) -> list[str]:
    return current_app().folders.filenames(kind)


def model_path(kind: str, name: str) -> Path:
    """The file of that name. Raises FileNotFoundError that says where it was looked for."""
    folders = current_app().folders
    path = folders.find(kind, name)
    if path is None:
        places = ", ".join(str(place) for place in folders.paths(kind))
        raise FileNotFoundError(f"there is no model {name!r} of the kind {kind!r} in {places}")
    return path


def embedding_folders() -> list[str]:
    """Where textual inversions are looked for."""
    return [str(path) for path in current_app().folders.paths("embeddings")]
