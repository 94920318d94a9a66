"""`/object_info`: what nodes there are. Written once by the kernel, and sent as it is."""

from __future__ import annotations

import asyncio
import gzip

from aiohttp import web
from comfyk.wire import dumps

from comfyk_http.answers import client_has, json_bytes
from comfyk_http.errors import ApiError
from comfyk_http.keys import APP

COMPRESSED = web.AppKey("object_info_compressed", dict[str, bytes])


async def get_object_info(request: web.Request) -> web.Response:
    """All nodes. Answers 304 to a client that has them, and compresses once for all that ask for gzip."""
    # In a thread: nodes of packs may look through folders to say what inputs they have.
    body, tag = await asyncio.to_thread(request.app[APP].object_info.all)
    tag = tag.removeprefix("W/").strip('"')
    headers = {"ETag": f'W/"{tag}"', "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    if client_has(request, tag):
        return web.Response(status=304, headers=headers)
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        body = await _compressed(request.app[COMPRESSED], tag, body)
        headers["Content-Encoding"] = "gzip"
    return json_bytes(body, headers=headers)


async def _compressed(kept: dict[str, bytes], tag: str, body: bytes) -> bytes:
    if tag not in kept:
        compressed = await asyncio.to_thread(gzip.compress, body, 6, mtime=0)
        kept.clear()
        kept[tag] = compressed
    return kept[tag]


async def get_one(request: web.Request) -> web.Response:
    """One node, under its name."""
    name = request.match_info["node_class"]
    info = await asyncio.to_thread(request.app[APP].object_info.one, name)
    if info is None:
        raise ApiError(404, "not_found", f"There is no node {name!r}.")
    return json_bytes(dumps({name: info}))
