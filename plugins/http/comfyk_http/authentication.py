"""Lets in who has a token. Programs send it as a header; browsers get a cookie from the page
that asks for it (`comfyk_http.token_page`), or when they open `/?token=...`.

Browsers cannot set headers for pictures or WebSockets, but they send cookies with both. The cookie is of no use to
other sites' pages: their requests are refused before they get here (`comfyk_http.security`).
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Middleware
from comfyk.api import ApiError

from comfyk_http.errors import Handler
from comfyk_http.settings import HttpSettings
from comfyk_http.token_page import COOKIE, LOGIN_PATHS, is_sent, logged_in, page, sent_token, wants_page
from comfyk_http.tokens import Token, Tokens

_LET_IN = web.RequestKey("let_in", tuple[Tokens, Token])
"""Where a request keeps the token that let it in, and what knows whether that still holds."""
_HEADERS = {"WWW-Authenticate": 'Bearer realm="comfyk"', "Cache-Control": "no-store"}
_SOCKET_PATHS = ("/ws", "/api/ws")


def authentication(settings: HttpSettings, tokens: Tokens) -> Middleware:
    """The middleware that answers 401 to requests without a token, to a browser's with a page that takes one."""
    secure = settings.tls_certfile is not None

    @web.middleware
    async def authenticated(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.query.get("token")
        if is_sent(request):
            given = await sent_token(request)
            if tokens.accepts(given):
                raise logged_in(given, secure=secure)
            return page(_HEADERS, wrong=True)
        if given is not None and request.method == "GET" and request.path in LOGIN_PATHS:
            if tokens.accepts(given):
                raise logged_in(given, secure=secure)
            return _refused(request, wrong=True)
        for secret in _secrets(request):
            token = tokens.find(secret)
            if token is not None:
                request[_LET_IN] = tokens, token
                return await handler(request)
        return _refused(request)

    return authenticated


def token_of(request: web.Request) -> Token | None:
    """The token that let the request in; None where none is asked for."""
    let_in = request.get(_LET_IN)
    return None if let_in is None else let_in[1]


def still_let_in(request: web.Request) -> Callable[[], bool]:
    """Says, later, whether the token of this request has not been revoked since."""
    let_in = request.get(_LET_IN)
    if let_in is None:
        return lambda: True
    tokens, token = let_in
    return lambda: tokens.holds(token)


def _secrets(request: web.Request) -> list[str]:
    """Every token that the request carries."""
    found = []
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        found.append(secret.strip())
    if cookie := request.cookies.get(COOKIE):
        found.append(cookie)
    if request.path in _SOCKET_PATHS and (secret := request.query.get("token")):
        found.append(secret)
    return found


def _refused(request: web.Request, *, wrong: bool = False) -> web.Response:
    if wants_page(request):
        return page(_HEADERS, wrong=wrong)
    raise ApiError(
        401,
        "unauthorized",
        "This server asks for a token.",
        "Send it as `Authorization: Bearer TOKEN`, or open /?token=TOKEN in a browser. "
        "`comfyk token create` makes one.",
        headers=_HEADERS,
    )
