"""`/object_info`: what nodes there are. Written once by the kernel, and sent as it is."""

from __future__ import annotations

import asyncio
import gzip

from aiohttp import web
from comfyk.api import ApiError, client_has, operation
from comfyk.wire import dumps

from comfyk_http.answer_descriptions import done, gives
from comfyk_http.json_answers import json_bytes
from comfyk_http.keys import APP

COMPRESSED = web.AppKey("object_info_compressed", dict[str, bytes])


@operation(
    "getObjectInfo",
    "All nodes",
    tag="node",
    answers={200: gives("Nodes by name", "NodeInfos"), 304: done("The client has them")},
)
async def get_object_info(request: web.Request) -> web.Response:
    """Answers 304 to a client that has them (`If-None-Match`)."""
    await request.app[APP].packs_loaded()
    body, tag = await request.app[APP].object_info.document()
    tag = tag.removeprefix("W/").strip('"')
    headers = {"ETag": f'W/"{tag}"', "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    if client_has(request, tag):
        return web.Response(status=304, headers=headers)
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        # Once for all clients that ask for it.
        body = await _compressed(request.app[COMPRESSED], tag, body)
        headers["Content-Encoding"] = "gzip"
    return json_bytes(body, headers=headers)


async def _compressed(kept: dict[str, bytes], tag: str, body: bytes) -> bytes:
    if tag not in kept:
        compressed = await asyncio.to_thread(gzip.compress, body, 6, mtime=0)
        kept.clear()
        kept[tag] = compressed
    return kept[tag]


@operation(
    "getObjectInfoByClass",
    "One node",
    tag="node",
    answers={200: gives("The node, under its name", "NodeInfos"), 404: gives("No such node", "ErrorObject")},
)
async def get_one(request: web.Request) -> web.Response:
    """As it is among all nodes."""
    name = request.match_info["node_class"]
    await request.app[APP].packs_loaded()
    info = await request.app[APP].object_info.entry(name)
    if info is None:
        raise ApiError(404, "not_found", f"There is no node {name!r}.")
    return json_bytes(dumps({name: info}))
