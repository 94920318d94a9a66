"""Whether the files that a node showed are still there: links to nothing are no result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfyk.context import current_app
from comfyk.folders import Folders


def are_there(ui: Mapping[str, Any] | None) -> bool:
    """Whether all of `{"images": [{"filename", "subfolder", "type"}]}` and the like exist. What names none is there."""
    if ui is None:
        return True
    try:
        folders = current_app().folders
    except RuntimeError:  # an executor without an app has no folders either
        return True
    for shown in ui.values():
        for item in shown if isinstance(shown, (list, tuple)) else ():
            if isinstance(item, Mapping) and not _is_there(folders, item):
                return False
    return True


def _is_there(folders: Folders, item: Mapping[str, Any]) -> bool:
    filename, subfolder, type = (item.get(key, "") for key in ("filename", "subfolder", "type"))
    if not (isinstance(filename, str) and filename and isinstance(subfolder, str)):
        return True
    if type not in ("input", "output", "temp"):
        return True
    try:
        # As names that nodes gave, not people: links may lead out of the folder.
        return (folders.directory(type) / subfolder / filename).exists()
    except (OSError, ValueError):
        return True
