"""A file of the UI as a browser gets it: its type, how long it may be kept, and whether it may be seen at all."""

from __future__ import annotations

import re
from collections.abc import Iterable
from mimetypes import MimeTypes
from pathlib import Path

from aiohttp import web
from comfyk.folders import PathOutsideError, resolve_inside

_DAY = 24 * 3600
_YEAR = 365 * _DAY
# The bundler puts a hash of the content into the names of what it writes here: `index-B2rHQ9Sn.js`.
_HASHED = re.compile(r"assets/[^/]+-[\w-]{8}\.\w+")
_MEDIA = ("image/", "video/", "audio/", "font/")

# Said here because the tables of the system differ, and browsers run no script of another type.
_TYPES = MimeTypes()
for _suffix, _type in {
    ".ico": "image/x-icon",
    ".js": "text/javascript",
    ".json": "application/json",
    ".map": "application/json",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".webm": "video/webm",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
}.items():
    _TYPES.add_type(_type, _suffix)


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


def answer(path: Path, name: str) -> web.FileResponse:
    """The file, with an ETag; ranges, `304` and `file.js.gz` in place of `file.js` are aiohttp's doing."""
    type = _TYPES.guess_type(path.name)[0] or "application/octet-stream"
    if type.startswith("text/") or type == "application/json":
        charset = "; charset=utf-8"
    else:
        charset = ""
    return web.FileResponse(
        path, headers={"Content-Type": type + charset, "Cache-Control": _cache_control(name, type)}
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
