"""Files as answers: whole or in ranges, with validators, and never run by a browser unless a program's own."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiohttp import web
from comfyk.api import Show, client_has, content_type, disposition, runs_in_browser

_ETAG = re.compile(r'(?:W/)?"([^"]*)"')


def answer_with_file(
    request: web.Request,
    path: Path,
    *,
    name: str,
    show: Show,
    content_type: str,
    etag: str,
    packed: bool,
    headers: Mapping[str, str] | None,
) -> web.StreamResponse:
    """See `comfyk.api.file_answer`."""
    added = _shown(request, name, show, content_type)
    added["X-Content-Type-Options"] = "nosniff"
    return FileAnswer(path, etag, packed, {**added, **(headers or {})})


def _shown(request: web.Request, name: str, show: Show, given: str) -> dict[str, str]:
    """The headers that decide what a browser does with it."""
    type = given or content_type(name)
    if show == "run":
        return {"Content-Type": type}
    headers = {"Content-Disposition": disposition("inline" if show == "safe" else "attachment", name)}
    if runs_in_browser(type):
        if show == "safe":
            # An SVG in an <img> cannot run scripts. The header is one that scripts cannot set; since the answer
            # depends on it, no cache may keep it.
            headers |= {"Vary": "Sec-Fetch-Dest", "Cache-Control": "no-store"}
        in_an_image = type == "image/svg+xml" and request.headers.get("Sec-Fetch-Dest") == "image"
        if show == "save" or not in_an_image:
            type = "application/octet-stream"
            headers["Content-Disposition"] = disposition("attachment", name)
    return {"Content-Type": type, **headers}


class FileAnswer(web.FileResponse):
    """A file as it is; what aiohttp leaves out of HTTP's validators is here."""

    def __init__(self, path: Path, tag: str, packed: bool, headers: Mapping[str, str]) -> None:
        """`tag`: the entity tag, if it is not to be of time and size. See `comfyk.api.file_answer`."""
        super().__init__(path, headers=headers)
        self._file = path
        self._tag = tag
        self._packed = packed

    async def prepare(self, request: web.BaseRequest) -> Any:
        headers = request.headers
        if self._tag and await asyncio.to_thread(self._file.is_file):
            held = headers.get("If-Match")
            if held is not None and held.strip() != "*" and f'"{self._tag}"' not in held:
                return await self._precondition_failed(request)
            if client_has(request, self._tag):
                return await self._not_modified(request, self._tag, await asyncio.to_thread(self._modified))
            # aiohttp knows the tag of time and size only: it is not to look at these.
            if "If-Match" in headers or "If-None-Match" in headers:
                request = _without(
                    request, "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"
                )
        # An `If-Range` that is a tag (aiohttp knows dates): a part only of what the client has the rest of.
        tag = _ETAG.fullmatch(headers.get("If-Range", "").strip())
        if (
            tag is not None
            and request.method == "GET"
            and tag[0] != await asyncio.to_thread(self._strong_tag)
        ):
            request = _without(request, "Range")
        return await super().prepare(request)

    @property
    def etag(self) -> Any:
        return super().etag

    @etag.setter
    def etag(self, value: Any) -> None:
        """aiohttp sets it as it begins to send."""
        web.FileResponse.etag.fset(self, self._tag or value)  # type: ignore[attr-defined]

    def _strong_tag(self) -> str | None:
        """With its quotes; None when the file is gone, which aiohttp answers with 404."""
        if self._tag:
            return f'"{self._tag}"'
        try:
            stat = self._file.stat()
        except OSError:
            return None
        return f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'

    def _modified(self) -> float:
        try:
            return self._file.stat().st_mtime
        except OSError:
            return 0

    def _get_file_path_stat_encoding(self, accept_encoding: str) -> Any:
        # aiohttp would send `a.json.gz` in place of `a.json` to clients that take gzip. Among files of users that is
        # another file, which need not be the same compressed.
        return super()._get_file_path_stat_encoding(accept_encoding if self._packed else "")


def _without(request: web.BaseRequest, *names: str) -> web.BaseRequest:
    headers = request.headers.copy()
    for name in names:
        headers.popall(name, None)
    return request.clone(headers=headers)
