"""Which plugin serves what: everybody's routes, gathered, each to be served at its path and under `/api`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from aiohttp import web
from comfyk import App
from comfyk.api import ApiError, as_object, operation_of
from comfyk.wire import dumps

from comfyk_http.handler_arguments import bind

if TYPE_CHECKING:
    from comfyk_http.openapi import Route

log = logging.getLogger(__name__)


def gather(app: App) -> list[tuple[str, web.AbstractRouteDef]]:
    """The plugins' routes with the plugin's name; of two for one path the first stays. Paths are without `/api`."""
    gathered: list[tuple[str, web.AbstractRouteDef]] = []
    taken: dict[tuple[str, str], str] = {}
    for plugin, routes in app.hook.each("comfyk_register_routes"):
        for route in routes:
            if isinstance(route, web.RouteDef):
                path = _bare(route.path)
                other = taken.setdefault((route.method, path), plugin)
                if other != plugin:
                    _say_left_out(plugin, route, other)
                    continue
                route = web.RouteDef(route.method, path, route.handler, route.kwargs)
            gathered.append((plugin, route))
    return gathered


def _bare(path: str) -> str:
    if path == "/api" or path.startswith("/api/"):
        return path.removeprefix("/api") or "/"
    return path


def _say_left_out(plugin: str, route: web.RouteDef, other: str) -> None:
    level = logging.DEBUG if plugin == "http" else logging.WARNING
    message = "%s %s of the plugin %s is left out: the plugin %s serves it"
    log.log(level, message, route.method, route.path, plugin, other)


def add_routes(app: App, router: web.UrlDispatcher, gathered: list[tuple[str, web.AbstractRouteDef]]) -> None:
    """Let the router serve them. One that it does not take is recorded as its plugin's error."""
    for plugin, route in gathered:
        try:
            for served in _served(route):
                served.register(router)
        except Exception as error:
            app.plugins.record(plugin, "comfyk_register_routes", error)


def _served(route: web.AbstractRouteDef) -> Iterator[web.AbstractRouteDef]:
    if isinstance(route, web.StaticDef):
        for prefix in (route.prefix, f"/api{route.prefix}"):
            yield web.StaticDef(prefix, route.path, route.kwargs)
    elif isinstance(route, web.RouteDef):
        handler = bind(route.handler)
        for path in (route.path,) if route.path == "/" else (route.path, f"/api{route.path}"):
            yield web.RouteDef(route.method, path, handler, {"expect_handler": expected, **route.kwargs})
    else:
        yield route


async def expected(request: web.Request) -> web.StreamResponse | None:
    """What a client waits for before it sends its body (`Expect`): aiohttp's own refusal is no JSON."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        if request.version >= (1, 1):
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # that was no part of the answer
        return None
    error = ApiError(417, "expectation_failed", "The server can do no other `Expect` than 100-continue.")
    response = web.Response(status=417, body=dumps(as_object.write(error)), content_type="application/json")
    response.force_close()
    return response


def described(gathered: list[tuple[str, web.AbstractRouteDef]]) -> list[Route]:
    """Those of the routes that say what they are."""
    from comfyk_http.openapi import Route

    return [
        Route(route.method, route.path, found, found.error_shape, plugin)
        for plugin, route in gathered
        if isinstance(route, web.RouteDef) and (found := operation_of(route.handler)) is not None
    ]
