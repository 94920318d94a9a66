"""Where files are on this machine is nobody else's business: errors name files, not the folders that lead to them."""

from __future__ import annotations

import re
from pathlib import Path

from comfyk.folders import Folders

_POSIX = re.compile(r"(?<![\w./:~-])/(?:[^\s/'\"<>|:,;()\[\]]+/)+([^\s/'\"<>|:,;()\[\]]*)")
_WINDOWS = re.compile(
    r"(?<!\w)(?:[A-Za-z]:|\\\\[^\s\\/]+)[\\/](?:[^\s\\/'\"<>|:,;()]+[\\/])*([^\s\\/'\"<>|:,;()]*)"
)


def without_folders(text: str, folders: Folders) -> str:
    """The text with paths relative to comfyk's folders where they are below one."""
    if "/" not in text and "\\" not in text:
        return text
    for folder in _roots(folders):
        place = str(folder)
        if place in text:
            text = re.sub(rf"{re.escape(place)}(?:[\\/]+|(?![\w.-]))", "", text)
    return text


def without_paths(text: str) -> str:
    """The text with names in place of whole paths, of whatever kind: for what the system or a library says."""
    return _WINDOWS.sub(r"\1", _POSIX.sub(r"\1", text))


def _roots(folders: Folders) -> list[Path]:
    """The innermost first, so that nothing of a path is left."""
    found = {folders.base, folders.input, folders.output, folders.temp, folders.user, folders.models}
    found |= {path for kind in folders.kinds.values() for path in kind.paths}
    found |= {path.parent for path in (folders.input, folders.output, folders.temp, folders.user)}
    return sorted((path for path in found if len(path.parts) > 2), key=lambda path: -len(str(path)))
