"""`/ws`: a client connects, says what it can do, and is told what happens."""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import Any, cast

from aiohttp import WSCloseCode, WSMsgType, web
from comfyk import App
from comfyk.api import ApiError, operation, user_of
from comfyk.wire import dumps, loads

from comfyk_http.answer_descriptions import done
from comfyk_http.authentication import still_let_in
from comfyk_http.clients import Client
from comfyk_http.connections import Connection
from comfyk_http.frames import text_frame
from comfyk_http.heartbeat import Heartbeat
from comfyk_http.json_size import holds_more_values
from comfyk_http.keys import APP, CONNECTIONS, HUB, SETTINGS, USERS
from comfyk_http.requests import SocketQuery
from comfyk_http.routes.system import feature_flags, queue_info
from comfyk_http.services import names_user

log = logging.getLogger(__name__)

_MOST_VALUES = 10_000
_MOST_FLAGS = 64
_LONGEST_FLAG = 256

SOCKETS = web.AppKey("sockets", set[web.WebSocketResponse])


@operation(
    "connectWebSocket",
    "Open a WebSocket that tells what happens",
    tag="system",
    user=True,
    answers={
        101: done("The WebSocket is open"),
        400: done("The request opens no WebSocket"),
        409: done("Another user has this client id"),
        503: done("There are as many WebSockets as the server takes"),
    },
)
async def connect(request: web.Request, query: SocketQuery) -> web.StreamResponse:
    """Without a `clientId` the server chooses one, and says it in the first message."""
    app, hub, settings = request.app[APP], request.app[HUB], request.app[SETTINGS]
    connections = request.app[CONNECTIONS]
    if not connections.room_to_stay:
        connections.say(
            "websockets",
            f"{connections.websockets} WebSockets are open and {connections.waiting} requests wait, "
            "as many as there may be",
        )
        raise ApiError(
            503,
            "too_many_websockets",
            "The server has as many WebSockets as it takes.",
            "Try again in a moment. http.max_connections is the limit; a quarter is kept for requests.",
        )
    user, client_id = _user(request), query.client_id or uuid.uuid4().hex
    hub.check_owner(client_id, user, request.remote)
    socket = web.WebSocketResponse(
        compress=False, max_msg_size=round(settings.max_message_kb * 1024), timeout=5
    )
    await socket.prepare(request)
    connection = cast("Connection", request.protocol)
    if connection.transport is None:
        return socket  # the client is gone already
    client = Client(
        client_id,
        connection.transport,
        most_bytes=round(settings.client_buffer_mb * 1024 * 1024),
        timeout=settings.client_timeout,
    )
    client.user, client.address = user, request.remote
    leaving: list[asyncio.Task[bool]] = []

    def send_away() -> None:
        log.info("WebSocket client %r is sent away: its token was revoked", client.id[:64])
        client.close()
        closing = socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"The token was revoked")
        leaving.append(asyncio.get_running_loop().create_task(closing))

    connection.tick = Heartbeat(
        client, connection, settings.websocket_timeout, still_let_in(request), send_away
    )
    connections.websockets += 1
    request.app[SOCKETS].add(socket)
    hub.add(client)
    try:
        _greet(app, client)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                _receive(app, client, message.data)
    finally:
        connections.websockets -= 1
        hub.remove(client)
        request.app[SOCKETS].discard(socket)
        client.close()
    return socket


def _user(request: web.Request) -> str | None:
    """Whose the WebSocket is, as far as it says so: a browser's cannot, but for a token that belongs to a user."""
    return user_of(request) if request.app[USERS].multi_user and names_user(request) else None


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
        if holds_more_values(text.encode("utf-8", "replace"), _MOST_VALUES):
            raise ValueError(f"it holds more than {_MOST_VALUES:,} values")
        message = loads(text)
    except ValueError as error:
        log.debug("WebSocket client %r sent what cannot be read: %s", client.id, error)
        return
    if not isinstance(message, dict):
        return
    if message.get("type") == "feature_flags":
        client.flags = _kept(message.get("data"))
        _send(client, "feature_flags", feature_flags(app))
        return
    try:
        app.hook.comfyk_websocket_message(client_id=client.id, message=message)
    except Exception:
        log.exception("a plugin failed on a WebSocket message of type %r", message.get("type"))


def _kept(flags: Any) -> dict[str, Any]:
    """What is kept of a client's flags: plain values, and not more of them than a client has any use for."""
    found: dict[str, Any] = {}
    for name, value in flags.items() if isinstance(flags, dict) else ():
        if len(found) == _MOST_FLAGS:
            break
        if len(name) <= _LONGEST_FLAG and (
            isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= _LONGEST_FLAG)
        ):
            found[name] = value
    return found


def _send(client: Client, type: str, data: Any) -> None:
    client.send(text_frame(dumps({"type": type, "data": data})))
