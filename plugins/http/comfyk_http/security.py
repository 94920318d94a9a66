"""Who may talk to the server: checks against DNS rebinding and against other web sites' pages (CSRF).

A browser will send any site's requests to 127.0.0.1. So a request is refused when the name in its `Host` could be
somebody else's (rebinding), when its `Origin` is another site, or when the browser says that another site made it.
Programs that are no browsers send none of these headers and are not affected.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Middleware
from comfyk.api import ApiError

from comfyk_http.errors import Handler
from comfyk_http.settings import HttpSettings, is_loopback

log = logging.getLogger(__name__)

# What pages of other programs on this machine may show. They may get nothing else, since a GET of a plugin's route
# may change something: ComfyUI-Manager's API has such.
_SHOWN = ("/", "/view", "/api/view")
_PORTS = {"http": 80, "https": 443}
# Names that no stranger can register, so that they cannot be pointed here by one.
_PRIVATE_SUFFIXES = (".localhost", ".local", ".internal", ".home.arpa", ".lan")
_CORS_HEADERS = {
    "Access-Control-Allow-Methods": "POST, GET, DELETE, PUT, OPTIONS, PATCH",
    "Access-Control-Allow-Headers": "Content-Type, Authorization, Comfy-User",
    "Access-Control-Expose-Headers": "Comfyk-Ignored, Comfyk-Prompt-Id, Content-Location, Location",
}


@lru_cache(maxsize=1024)
def _split(authority: str) -> tuple[str, int | None]:
    """`"[::1]:8188"` -> `("::1", 8188)`. Raises ValueError."""
    parts = urlsplit(f"//{authority}")
    if parts.username is not None or parts.path or parts.query or parts.fragment or not parts.hostname:
        raise ValueError(f"{authority!r} is not a host")
    return parts.hostname.rstrip("."), parts.port


@lru_cache(maxsize=1024)
def _place(authority: str, standard: int) -> tuple[str, int]:
    """Host and port, with addresses in one spelling. Raises ValueError."""
    host, port = _split(authority)
    try:
        host = ipaddress.ip_address(host).compressed
    except ValueError:
        pass
    return host, standard if port is None else port


def _without_slash(origin: str) -> str:
    """Browsers send origins without the slash that people put behind them."""
    return origin if origin.endswith("//") else origin.removesuffix("/")


def _without_port(name: str) -> str:
    try:
        return _split(name)[0]
    except ValueError:
        return name


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


class Guard:
    """Decides which requests to let in; `check` is called for every one."""

    def __init__(self, settings: HttpSettings) -> None:
        self._cors = None if settings.cors_origin is None else _without_slash(settings.cors_origin.lower())
        self._loopback_only = settings.loopback_only
        self._places = {name.lower() for name in settings.allowed_hosts}
        """Names, of which some have a port."""
        self._names = {name if name == "*" else _without_port(name) for name in self._places}
        self._addresses = {address.lower() for address in settings.addresses}
        self._any_host = "*" in self._names
        self._own_name = socket.gethostname().lower()
        self.knows_host = lru_cache(maxsize=1024)(self._knows_host)

    def check(self, request: web.Request) -> None:
        """Raises ApiError (403) for a request that another site may have made."""
        if self._cors == "*":
            return
        headers = request.headers
        host = headers.get("Host")
        if host is not None and not self.knows_host(host):
            raise _refused(
                request,
                f"This server is not known as {host!r}.",
                "If you reach it by that name, add it to `allowed_hosts` in the section [http] of comfyk.toml.",
            )
        origin = headers.get("Origin")
        if origin is not None and (origin := origin.strip()):  # an empty one says nothing
            if not self._same_site(origin, host):
                raise _refused(
                    request,
                    f"Requests from pages of {origin!r} are not allowed.",
                    "Start with --enable-cors-header ORIGIN to allow them.",
                )
            return
        site = headers.get("Sec-Fetch-Site")
        if (site == "cross-site" or (site == "same-site" and not _shows(request))) and not (
            _opens_page(request) or self._allowed_referer(request)
        ):
            raise _refused(
                request,
                "The browser says that another site made this request.",
                "Start with --enable-cors-header ORIGIN to allow that site.",
            )

    def _knows_host(self, authority: str) -> bool:
        """Whether the name is this server's own, and could not be a stranger's that points here."""
        try:
            host, _ = _split(authority.lower())
        except ValueError:
            return False
        if self._any_host or host in self._names or host in self._addresses or is_loopback(host):
            return True
        if self._loopback_only:
            return False
        # On a network: addresses, and names that only that network knows (a machine's, a container's).
        return (
            _is_address(host) or "." not in host or host == self._own_name or host.endswith(_PRIVATE_SUFFIXES)
        )

    def _same_site(self, origin: str, host: str | None) -> bool:
        """Whether a page of this origin is the server's own: same host and same port, whatever a proxy's scheme is."""
        origin = origin.lower()
        if self._cors is not None and origin == self._cors:
            return True
        try:
            parts = urlsplit(origin)
            standard = _PORTS.get(parts.scheme)
            if standard is None:  # `null`, files, apps: only by their name
                return False
            theirs, their_port = _place(parts.netloc, standard)
            ours, our_port = _place((host or "").lower(), standard)
        except ValueError:
            return False
        if (theirs, their_port) == (ours, our_port):
            return True
        # The names that the server is reached by, where a proxy puts another into `Host`.
        return f"{theirs}:{their_port}" in self._places or (
            theirs in self._names and their_port in (standard, our_port)
        )

    def _allowed_referer(self, request: web.Request) -> bool:
        referer = request.headers.get("Referer", "")
        if self._cors is None:
            return False
        parts = urlsplit(referer)
        return f"{parts.scheme}://{parts.netloc}".lower() == self._cors


def _shows(request: web.Request) -> bool:
    return request.method in ("GET", "HEAD") and request.path in _SHOWN


def _opens_page(request: web.Request) -> bool:
    """A link from another site to the start page, followed by the user."""
    return (
        request.method in ("GET", "HEAD")
        and request.path == "/"
        and request.headers.get("Sec-Fetch-Mode") == "navigate"
        and request.headers.get("Sec-Fetch-Dest", "document") == "document"
    )


def _refused(request: web.Request, message: str, advice: str) -> ApiError:
    log.warning("refused %s %s: %s %s", request.method, request.path, message, advice)
    return ApiError(403, "forbidden", message, advice)


def guard(settings: HttpSettings) -> Middleware:
    """The middleware that refuses other sites' requests and keeps browsers from guessing content types."""
    check = Guard(settings).check

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        check(request)
        response = await handler(request)
        if not response.prepared:
            response.headers.setdefault("X-Content-Type-Options", "nosniff")
        return response

    return guarded


def cors(origin: str) -> Middleware:
    """The middleware that lets pages of `origin` (`*`: of any site) read the answers."""
    headers = {"Access-Control-Allow-Origin": _without_slash(origin), **_CORS_HEADERS}
    if origin != "*":
        headers |= {"Access-Control-Allow-Credentials": "true", "Vary": "Origin"}

    @web.middleware
    async def allowed(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            return web.Response(status=204, headers=headers)
        response = await handler(request)
        if not response.prepared:
            _add(response, headers.items())
        return response

    return allowed


def _add(response: web.StreamResponse, headers: Iterable[tuple[str, str]]) -> None:
    for name, value in headers:
        if name == "Vary" and "Vary" in response.headers:
            value = f"{response.headers['Vary']}, {value}"
        response.headers[name] = value
