"""Files of the UI: which one a browser means, and how long it may keep it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from aiohttp import web
from comfyk.api import content_type, file_answer
from comfyk.folders import PathOutsideError, resolve_inside

_DAY = 24 * 3600
_YEAR = 365 * _DAY
# The bundler puts a hash of the content into the names of what it writes here: `index-B2rHQ9Sn.js`.
_HASHED = re.compile(r"assets/[^/]+-[\w-]{8}\.\w+")
_MEDIA = ("image/", "video/", "audio/", "font/")


def find(folders: Iterable[Path], name: str) -> Path | None:
    """The file of that name in the first folder that has it. Hidden files and names that lead out are not found."""
    if any(part.startswith(".") for part in name.split("/")):
        return None
    for folder in folders:
        try:
            path = resolve_inside(folder, name)
            if path.is_file():
                return path
        except (PathOutsideError, OSError):
            continue
    return None


def answer(request: web.Request, path: Path, name: str) -> web.StreamResponse:
    """The file, with an ETag and ranges; `file.js.gz` is sent in place of `file.js` to browsers that take it."""
    type = content_type(path.name)
    charset = "; charset=utf-8" if type.startswith("text/") or type == "application/json" else ""
    return file_answer(
        request,
        path,
        show="run",
        content_type=type + charset,
        packed=True,
        headers={"Cache-Control": _cache_control(name, type)},
    )


def _cache_control(name: str, type: str) -> str:
    if type == "text/html":
        return (
            "no-store"  # it names the hashed files: an old one asks for files that are gone after an update
        )
    if _HASHED.fullmatch(name):
        return f"public, max-age={_YEAR}, immutable"
    if type.startswith(_MEDIA):
        return f"public, max-age={_DAY}"
    return "no-cache"
