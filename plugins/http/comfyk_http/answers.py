"""Answers that several routes give: JSON, ready-made JSON, and "not modified"."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiohttp import web
from comfyk.wire import dumps

IGNORED = "Comfyk-Ignored"
"""The header of an answer that names what the request held in vain: fields, or `body`."""

_ETAG = re.compile(r'(?:W/)?"([^"]*)"')


def json_answer(value: Any, *, headers: Mapping[str, str] | None = None) -> web.Response:
    """200 with `value` as JSON."""
    return json_bytes(dumps(value), headers=headers)


def success(*, ignored: str | None = None) -> web.Response:
    """200, for what has nothing to tell; `ignored` names what of the request could not be used.

    Not without a body: to Chromium a request is aborted when its answer is empty and no script reads that.
    """
    return json_answer(None, headers=None if ignored is None else {IGNORED: ignored})


def json_bytes(body: bytes, *, headers: Mapping[str, str] | None = None) -> web.Response:
    """200 with JSON that is written already."""
    return web.Response(body=body, content_type="application/json", headers=headers)


class FileAnswer(web.FileResponse):
    """A file as it is, with ranges and validators.

    aiohttp would send `a.json.gz` in place of `a.json` to clients that take gzip. Among files of users that is
    another file, which need not be the same compressed.
    """

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__(path, **options)
        self._file = path

    async def prepare(self, request: web.BaseRequest) -> Any:
        """Heed an `If-Range` that is a tag (aiohttp knows dates): a part only of what the client has the rest of."""
        tag = _ETAG.fullmatch(request.headers.get("If-Range", "").strip())
        if tag is not None and request.method == "GET" and tag[0] != await asyncio.to_thread(self._tag):
            headers = request.headers.copy()
            headers.popall("Range", None)
            request = request.clone(headers=headers)
        return await super().prepare(request)

    def _tag(self) -> str | None:
        """The `ETag` that aiohttp gives the file; None when it is gone, which aiohttp answers with 404."""
        try:
            stat = self._file.stat()
        except OSError:
            return None
        return f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'

    def _get_file_path_stat_encoding(self, accept_encoding: str) -> Any:
        return super()._get_file_path_stat_encoding("")


def client_has(request: web.Request, tag: str) -> bool:
    """Whether the client says (`If-None-Match`) that it holds what has this entity tag (without quotes)."""
    held = request.headers.get("If-None-Match")
    return held is not None and (held.strip() == "*" or tag in _ETAG.findall(held))


def disposition(kind: str, filename: str) -> str:
    """A `Content-Disposition` for any file name: a plain form for all clients, an exact one for current ones."""
    plain = re.sub(r"[^ -~]", "_", filename).replace("\\", "\\\\").replace('"', '\\"')
    header = f'{kind}; filename="{plain}"'
    return header if filename.isascii() else f"{header}; filename*=UTF-8''{quote(filename, safe='')}"
