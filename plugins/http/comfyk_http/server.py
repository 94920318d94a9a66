"""The server: builds the aiohttp application out of everybody's routes, and listens."""

from __future__ import annotations

import asyncio
import errno
import logging
import ssl
import time
from collections.abc import Callable, Iterator

from aiohttp import WSCloseCode, web
from aiohttp.typedefs import Middleware
from comfyk import App
from comfyk.api import remove_leftovers, serve_requests

from comfyk_http.authentication import authentication
from comfyk_http.bodies import BODIES, Bodies, bodies_forgotten
from comfyk_http.compression import compress
from comfyk_http.connections import Connection, Connections
from comfyk_http.errors import errors_as_json
from comfyk_http.forms import UPLOADS, Uploads
from comfyk_http.hub import Hub
from comfyk_http.job_watch import JobWatch
from comfyk_http.keys import (
    APP,
    CONNECTIONS,
    HUB,
    JOB_WATCH,
    LOG_FEED,
    PICTURES,
    ROUTES,
    SETTINGS,
    STARTED,
    USERS,
)
from comfyk_http.listening import Listener, bind
from comfyk_http.log_feed import LogFeed
from comfyk_http.network_addresses import reachable
from comfyk_http.picture_pool import PicturePool
from comfyk_http.routes.object_info import COMPRESSED
from comfyk_http.routing import add_routes, gather
from comfyk_http.security import cors, guard
from comfyk_http.services import Services, known_users
from comfyk_http.settings import HttpSettings, token_needed
from comfyk_http.tokens import Tokens
from comfyk_http.users import Users
from comfyk_http.websocket import SOCKETS

log = logging.getLogger(__name__)

_NEVER = 7 * 24 * 3600
"""Seconds: aiohttp's own limit for idle connections, which are looked after by `Connections`."""
_CANNOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class HttpServer:
    """Serves one app. `addresses` says where, once it is started."""

    def __init__(self, app: App, settings: HttpSettings) -> None:
        self.hub = Hub()
        self.connections = Connections(settings)
        self.addresses: list[tuple[str, int]] = []
        self._app = app
        self._settings = settings
        self._listeners: list[Listener] = []
        self._runner: web.AppRunner | None = None
        self._tidying: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] | None = None

    @property
    def url(self) -> str:
        """Where a browser on this machine finds it, such as `http://127.0.0.1:8188`."""
        return self.urls[0]

    @property
    def urls(self) -> list[str]:
        """Every address: this machine's own first, then those by which others on the network find it."""
        scheme = "https" if self._settings.tls_certfile else "http"
        reached = reachable(self.addresses)
        return [f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}" for host, port in reached]

    @property
    def has_ui(self) -> bool:
        """Whether a plugin serves a web UI at `/`."""
        assert self._runner is not None and self._runner.app is not None
        return any(
            isinstance(route, web.RouteDef) and route.path == "/" and plugin != "http"
            for plugin, route in self._runner.app[ROUTES]
        )

    async def start(self) -> None:
        """Listen on all addresses. Raises OSError that says which address it could not have, and why."""
        tls = self._settings.tls()
        application = build_application(self._app, self._settings, self.hub, self.connections)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=2)
        try:
            await self._runner.setup()
            self._say_who_gets_in()
            for address in self._settings.addresses:
                await self._listen(address, tls)
            if not self.addresses:
                raise OSError(
                    errno.EADDRNOTAVAIL, f"There is no address to listen on: {self._settings.listen!r}"
                )
        except BaseException:
            await self._close()
            raise
        self._unsubscribe = self._app.events.subscribe(self.hub.on_event)
        self._tidying = asyncio.create_task(asyncio.to_thread(remove_leftovers, self._app.folders))

    async def stop(self) -> None:
        """Tell the WebSocket clients, let requests end, and close."""
        if self._runner is None:
            return
        self._app.events.deliver()  # what happened until now is still sent
        if self._unsubscribe is not None:
            self._unsubscribe()
        await self.hub.flush(seconds=1)
        await self._close()

    async def _close(self) -> None:
        """Take in no more, and let go of all who are there."""
        for listener in self._listeners:
            await listener.close()
        if self._runner is not None:
            await self._runner.cleanup()
        self.connections.close()
        if self._tidying is not None:
            await self._tidying

    def _say_who_gets_in(self) -> None:
        """Tell the one who starts the server how clients get in, when it is not plain."""
        if token_needed(self._settings):
            if not Tokens(self._app.folders.user).all():
                log.warning(
                    "clients need a token, and there is none: `comfyk token create` makes one, also while the "
                    "server runs. `--require-token never` lets everybody in who can reach this machine."
                )
        elif not self._settings.loopback_only:
            log.warning("everybody who can reach this machine may use the server: no token is asked for")

    async def _listen(self, address: str, tls: ssl.SSLContext | None) -> None:
        port = self._settings.port
        try:
            sockets = await bind(address, port)
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
        for bound in sockets:
            host, taken, *_ = bound.getsockname()
            self._listeners.append(Listener(bound, self.connections, self._new_connection, tls))
            self.addresses.append((host, taken))

    def _new_connection(self, address: str) -> Connection:
        assert self._runner is not None and self._runner.server is not None
        return Connection(
            self.connections,
            self._runner.server,
            address,
            access_log=None,
            keepalive_timeout=_NEVER,
        )


def build_application(
    app: App, settings: HttpSettings, hub: Hub, connections: Connections
) -> web.Application:
    """The aiohttp application: the server's own checks, the plugins' middlewares and routes."""
    middlewares: list[Middleware] = [errors_as_json, bodies_forgotten, guard(settings)]
    if settings.cors_origin:
        middlewares.insert(0, cors(settings.cors_origin))  # outermost: a page may read errors too
    if token_needed(settings):
        middlewares.append(authentication(settings, Tokens(app.folders.user)))
    users = Users(app.folders.user, multi_user=settings.multi_user)
    services = Services(app, users)
    if settings.multi_user:
        middlewares.append(known_users(services))
    if settings.compress:
        middlewares.append(compress)
    middlewares.extend(_middlewares_of_plugins(app))
    application = web.Application(middlewares=middlewares, client_max_size=settings.max_upload_size)
    application[APP] = app
    application[SETTINGS] = settings
    application[HUB] = hub
    application[CONNECTIONS] = connections
    application[JOB_WATCH] = watch = JobWatch(app, connections, settings.max_wait)
    application[SOCKETS] = set()
    application[COMPRESSED] = {}
    application[PICTURES] = pictures = PicturePool(settings.picture_memory_mb)
    application[BODIES] = Bodies(settings.body_memory_mb)
    application[UPLOADS] = Uploads(settings.max_arriving)
    application[USERS] = users
    serve_requests(application, services)
    application[LOG_FEED] = feed = LogFeed(app, hub)
    application[STARTED] = time.monotonic()
    application.on_shutdown.append(watch.close)
    application.on_shutdown.append(_say_goodbye)
    application.on_cleanup.append(feed.stop)

    async def end_pictures(_: web.Application) -> None:
        pictures.close()

    application.on_cleanup.append(end_pictures)
    routes = gather(app)
    add_routes(app, application.router, routes)
    application[ROUTES] = routes
    return application


def _middlewares_of_plugins(app: App) -> Iterator[Middleware]:
    """Those that aiohttp can call; one that it cannot would fail every request, so it is its plugin's error."""
    hook = "comfyk_register_middlewares"
    for plugin, added in app.hook.each(hook):
        for middleware in added:
            if getattr(middleware, "__middleware_version__", None) == 1:
                yield middleware
            else:
                error = TypeError(
                    f"{middleware!r:.80} is no middleware; mark it with @aiohttp.web.middleware"
                )
                app.plugins.record(plugin, hook, error)


async def _say_goodbye(application: web.Application) -> None:
    """Clients connect again at once to a server that starts again; of one that stops they tell their user."""
    if application[APP].restarting:
        code, message = WSCloseCode.SERVICE_RESTART, b"The server restarts"
    else:
        code, message = WSCloseCode.GOING_AWAY, b"The server stops"
    closing = [socket.close(code=code, message=message) for socket in list(application[SOCKETS])]
    await asyncio.gather(*closing, return_exceptions=True)
