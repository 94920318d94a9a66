"""Answers in JSON: of a value, or written already."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiohttp import web
from comfyk.wire import dumps

from comfyk_http.keys import SETTINGS

_WHOLE = 1_500_000
"""Bytes that are sent whole, with their length."""

IGNORED = "Comfyk-Ignored"
"""The header of an answer that names what the request held in vain: fields, or `body`."""


def json_answer(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """`value` as JSON."""
    return json_bytes(dumps(value), status=status, headers=headers)


def success(*, ignored: str | None = None) -> web.Response:
    """200, for what has nothing to tell; `ignored` names what of the request could not be used.

    Not without a body: to Chromium a request is aborted when its answer is empty and no script reads that.
    """
    return json_answer(None, headers=None if ignored is None else {IGNORED: ignored})


def json_bytes(body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """JSON that is written already."""
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


async def json_pieces(
    request: web.Request, pieces: AsyncIterator[bytes], headers: Mapping[str, str] | None = None
) -> web.StreamResponse:
    """200 with JSON that is written as it is read, so that memory does not grow with it."""
    begun = b""
    async for piece in pieces:
        begun += piece
        if len(begun) > _WHOLE:
            break
    else:
        return json_bytes(begun, headers=headers)
    response = web.StreamResponse(headers={"Content-Type": "application/json", **(headers or {})})
    if request.app[SETTINGS].compress:
        response.enable_compression()
    await response.prepare(request)
    await response.write(begun)
    del begun
    async for piece in pieces:
        await response.write(piece)
    return response
