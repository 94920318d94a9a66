"""Answers that several routes give: JSON, ready-made JSON, and "not modified"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from aiohttp import web
from comfyk.wire import dumps

_ETAG = re.compile(r'(?:W/)?"([^"]*)"')


def json_answer(value: Any, *, headers: Mapping[str, str] | None = None) -> web.Response:
    """200 with `value` as JSON."""
    return json_bytes(dumps(value), headers=headers)


def json_bytes(body: bytes, *, headers: Mapping[str, str] | None = None) -> web.Response:
    """200 with JSON that is written already."""
    return web.Response(body=body, content_type="application/json", headers=headers)


def client_has(request: web.Request, tag: str) -> bool:
    """Whether the client says (`If-None-Match`) that it holds what has this entity tag (without quotes)."""
    held = request.headers.get("If-None-Match")
    return held is not None and (held.strip() == "*" or tag in _ETAG.findall(held))


def disposition(kind: str, filename: str) -> str:
    """A `Content-Disposition` for any file name: a plain form for all clients, an exact one for current ones."""
    plain = re.sub(r"[^ -~]", "_", filename).replace("\\", "\\\\").replace('"', '\\"')
    header = f'{kind}; filename="{plain}"'
    return header if filename.isascii() else f"{header}; filename*=UTF-8''{quote(filename, safe='')}"
