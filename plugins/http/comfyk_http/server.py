"""The server: builds the aiohttp application out of everybody's routes, and listens."""

from __future__ import annotations

import asyncio
import errno
import logging
import ssl
from collections.abc import Callable

from aiohttp import WSCloseCode, web
from aiohttp.typedefs import Middleware
from comfyk.app import App

from comfyk_http.compression import compress
from comfyk_http.errors import errors_as_json
from comfyk_http.hub import Hub
from comfyk_http.keys import APP, HUB, SETTINGS
from comfyk_http.routes.object_info import COMPRESSED
from comfyk_http.security import cors, guard
from comfyk_http.settings import HttpSettings
from comfyk_http.uploads import remove_leftovers
from comfyk_http.websocket import SOCKETS

log = logging.getLogger(__name__)

_CANNOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class HttpServer:
    """Serves one app. `addresses` says where, once it is started."""

    def __init__(self, app: App, settings: HttpSettings) -> None:
        self.hub = Hub()
        self.addresses: list[tuple[str, int]] = []
        self._app = app
        self._settings = settings
        self._runner: web.AppRunner | None = None
        self._unsubscribe: Callable[[], None] | None = None

    @property
    def url(self) -> str:
        """Where a browser on this machine finds it, such as `http://127.0.0.1:8188`."""
        host, port = self.addresses[0]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        scheme = "https" if self._settings.tls_certfile else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    async def start(self) -> None:
        """Listen on all addresses. Raises OSError that says which address it could not have, and why."""
        remove_leftovers(self._app.folders)
        tls = self._tls()
        self._runner = web.AppRunner(
            build_application(self._app, self._settings, self.hub), access_log=None, shutdown_timeout=2
        )
        try:
            await self._runner.setup()
            for address in self._settings.addresses:
                await self._listen(self._runner, address, tls)
            if not self.addresses:
                raise OSError(
                    errno.EADDRNOTAVAIL, f"There is no address to listen on: {self._settings.listen!r}"
                )
        except BaseException:
            await self._runner.cleanup()
            raise
        self._unsubscribe = self._app.events.subscribe(self.hub.on_event)

    async def stop(self) -> None:
        """Tell the WebSocket clients, let requests end, and close."""
        if self._runner is None:
            return
        self._app.events.deliver()  # what happened until now is still sent
        if self._unsubscribe is not None:
            self._unsubscribe()
        await self.hub.flush(seconds=1)
        await self._runner.cleanup()

    async def _listen(self, runner: web.AppRunner, address: str, tls: ssl.SSLContext | None) -> None:
        port = self._settings.port
        site = web.TCPSite(runner, address, port, ssl_context=tls)
        try:
            await site.start()
        except OSError as error:
            where = f"port {port} on {address}"
            if error.errno == errno.EADDRINUSE:
                raise OSError(
                    error.errno,
                    f"{where} is in use by another program; stop it, or choose another port with --port",
                ) from error
            if error.errno in _CANNOT_HERE and len(self._settings.addresses) > 1:
                log.warning("not listening on %s: %s", where, error.strerror)
                return
            raise OSError(error.errno, f"cannot listen on {where}: {error.strerror}") from error
        for found in runner.addresses[len(self.addresses) :]:
            self.addresses.append((found[0], found[1]))

    def _tls(self) -> ssl.SSLContext | None:
        key, certificate = self._settings.tls_keyfile, self._settings.tls_certfile
        if key is None and certificate is None:
            return None
        if key is None or certificate is None:
            raise OSError(errno.EINVAL, "TLS needs both --tls-keyfile and --tls-certfile")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise OSError(errno.EINVAL, f"cannot use {certificate} with {key} for TLS: {error}") from error
        return context


def build_application(app: App, settings: HttpSettings, hub: Hub) -> web.Application:
    """The aiohttp application: the server's own checks, the plugins' middlewares and routes."""
    middlewares: list[Middleware] = [errors_as_json]
    if settings.cors_origin:
        middlewares.append(cors(settings.cors_origin))
    middlewares.append(guard(settings))
    if settings.compress:
        middlewares.append(compress)
    for added in app.plugins.call("comfyk_register_middlewares", app=app):
        middlewares.extend(added)
    application = web.Application(middlewares=middlewares, client_max_size=settings.max_upload_size)
    application[APP] = app
    application[SETTINGS] = settings
    application[HUB] = hub
    application[SOCKETS] = set()
    application[COMPRESSED] = {}
    application.on_shutdown.append(_say_goodbye)
    add_routes(application, app)
    return application


def add_routes(application: web.Application, app: App) -> None:
    """Every plugin's routes, each at its path and under `/api`; of two for one path the first stays."""
    taken: dict[tuple[str, str], str] = {}
    for plugin, routes in app.plugins.call_each("comfyk_register_routes", app=app):
        for route in routes:
            try:
                _add_route(application.router, plugin, route, taken)
            except Exception as error:
                app.plugins.record(plugin, "comfyk_register_routes", error)


def _add_route(
    router: web.UrlDispatcher, plugin: str, route: web.AbstractRouteDef, taken: dict[tuple[str, str], str]
) -> None:
    if isinstance(route, web.StaticDef):
        for prefix in (route.prefix, f"/api{route.prefix}"):
            router.add_static(prefix, route.path, **route.kwargs)
        return
    if not isinstance(route, web.RouteDef):
        route.register(router)
        return
    path = route.path
    if path == "/api" or path.startswith("/api/"):
        path = path.removeprefix("/api") or "/"
    other = taken.setdefault((route.method, path), plugin)
    if other != plugin:
        message = "%s %s of the plugin %s is left out: the plugin %s serves it"
        log.log(
            logging.DEBUG if plugin == "http" else logging.WARNING, message, route.method, path, plugin, other
        )
        return
    for served in (path,) if path == "/" else (path, f"/api{path}"):
        web.RouteDef(route.method, served, route.handler, route.kwargs).register(router)


async def _say_goodbye(application: web.Application) -> None:
    sockets = list(application[SOCKETS])
    closing = [socket.close(code=WSCloseCode.GOING_AWAY, message=b"The server stops") for socket in sockets]
    await asyncio.gather(*closing, return_exceptions=True)
