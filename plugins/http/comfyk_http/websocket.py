"""`/ws`: a client connects, says what it can do, and is told what happens."""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import Any, cast

from aiohttp import WSMsgType, web
from comfyk import App
from comfyk.api import operation
from comfyk.wire import dumps, loads

from comfyk_http.answer_descriptions import done
from comfyk_http.clients import Client
from comfyk_http.frames import text_frame
from comfyk_http.keys import APP, HUB, SETTINGS
from comfyk_http.requests import SocketQuery
from comfyk_http.routes.system import feature_flags, queue_info

log = logging.getLogger(__name__)

LONGEST_MESSAGE = 4 * 1024 * 1024
"""Bytes; a client that sends a longer one is disconnected with 1009."""

SOCKETS = web.AppKey("sockets", set[web.WebSocketResponse])


@operation(
    "connectWebSocket",
    "Open a WebSocket that tells what happens",
    tag="system",
    answers={101: done("The WebSocket is open"), 400: done("The request opens no WebSocket")},
)
async def connect(request: web.Request, query: SocketQuery) -> web.StreamResponse:
    """Without a `clientId` the server chooses one, and says it in the first message."""
    app, hub, settings = request.app[APP], request.app[HUB], request.app[SETTINGS]
    socket = web.WebSocketResponse(compress=False, max_msg_size=LONGEST_MESSAGE, timeout=5)
    await socket.prepare(request)
    transport = cast("asyncio.WriteTransport | None", request.transport)
    if transport is None:
        return socket  # the client is gone already
    client = Client(
        query.client_id or uuid.uuid4().hex,
        transport,
        most_bytes=round(settings.client_buffer_mb * 1024 * 1024),
        timeout=settings.client_timeout,
    )
    request.app[SOCKETS].add(socket)
    hub.add(client)
    try:
        _greet(app, client)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                _receive(app, client, message.data)
    finally:
        hub.remove(client)
        request.app[SOCKETS].discard(socket)
        client.close()
    return socket


def _greet(app: App, client: Client) -> None:
    """The first messages: the queue and the client's id, and what its job is at if it connected again."""
    _send(client, "status", {"status": queue_info(app), "sid": client.id})
    current = app.jobs.current_node(client.id)
    if current is not None:
        job_id, node = current
        _send(client, "executing", {"node": node, "display_node": node, "prompt_id": job_id})


def _receive(app: App, client: Client, text: str) -> None:
    """Take a message of a client. What nobody understands is ignored, since newer clients say more."""
    try:
        message = loads(text)
    except ValueError as error:
        log.debug("WebSocket client %r sent what is not JSON: %s", client.id, error)
        return
    if not isinstance(message, dict):
        return
    if message.get("type") == "feature_flags":
        flags = message.get("data")
        client.flags = flags if isinstance(flags, dict) else {}
        _send(client, "feature_flags", feature_flags(app))
        return
    try:
        app.hook.comfyk_websocket_message(client_id=client.id, message=message)
    except Exception:
        log.exception("a plugin failed on a WebSocket message of type %r", message.get("type"))


def _send(client: Client, type: str, data: Any) -> None:
    client.send(text_frame(dumps({"type": type, "data": data})))
