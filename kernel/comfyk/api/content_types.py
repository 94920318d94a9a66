"""Content types and dispositions: what a file is, whether a browser would run it, and under which name it is saved."""

from __future__ import annotations

import mimetypes
import re
from urllib.parse import quote

# Said here because the tables of the system differ, and on Windows are whatever programs made of them.
_TYPES = mimetypes.MimeTypes()
for _suffix, _type in {
    ".avif": "image/avif",
    ".css": "text/css",
    ".exr": "image/x-exr",
    ".flac": "audio/flac",
    ".glb": "model/gltf-binary",
    ".gltf": "model/gltf+json",
    ".ico": "image/x-icon",
    ".jpg": "image/jpeg",
    ".js": "text/javascript",
    ".json": "application/json",
    ".m4a": "audio/mp4",
    ".map": "application/json",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".mkv": "video/x-matroska",
    ".mov": "video/quicktime",
    ".mp3": "audio/mpeg",
    ".mp4": "video/mp4",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".wav": "audio/wav",
    ".webm": "video/webm",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
}.items():
    _TYPES.add_type(_type, _suffix)

# What may be shown as it is. All else is saved: new types that browsers learn to run are covered that way too.
_SHOWN = ("image/", "video/", "audio/", "model/", "font/")
_ALSO_SHOWN = frozenset({"application/json", "text/plain", "text/markdown", "text/csv"})


def content_type(name: str) -> str:
    """The content type by a file's name; `application/octet-stream` when it says nothing."""
    type, encoding = _TYPES.guess_type(name)
    return type if type is not None and encoding is None else "application/octet-stream"


def runs_in_browser(type: str) -> bool:
    """Whether a page could be made to run code by a file of this type, were it shown instead of saved."""
    if type.endswith(("+xml", "/xml")):
        return True
    return not type.startswith(_SHOWN) and type not in _ALSO_SHOWN


def disposition(kind: str, filename: str) -> str:
    """A `Content-Disposition` (`inline`, `attachment`) for any file name.

    It has a plain form for all clients and an exact one for current ones.
    """
    plain = re.sub(r"[^ -~]", "_", filename).replace("\\", "\\\\").replace('"', '\\"')
    header = f'{kind}; filename="{plain}"'
    return header if filename.isascii() else f"{header}; filename*=UTF-8''{quote(filename, safe='')}"
