"""Lets in who has a token. Programs send it as a header; browsers get a cookie when they open `/?token=...`.

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
from comfyk_http.tokens import Token, Tokens

COOKIE = "comfyk_token"
_LET_IN = web.RequestKey("let_in", tuple[Tokens, Token])
"""Where a request keeps the token that let it in, and what knows whether that still holds."""
_MAX_AGE = 365 * 24 * 3600
_LOGIN_PATHS = ("/", "/api", "/api/")
_SOCKET_PATHS = ("/ws", "/api/ws")

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>comfyk</title>
<style>body { font: 16px/1.5 system-ui, sans-serif; max-width: 30rem; margin: 4rem auto; padding: 0 1rem; }</style>
<h1>comfyk</h1>
<p>This server asks for a token. <code>comfyk token create</code> makes one, on the machine where it runs.</p>
<form method="get" action="/"><input name="token" type="password" autocomplete="current-password" autofocus
aria-label="Token"> <button>Open</button></form>
</html>
"""


def authentication(settings: HttpSettings, tokens: Tokens) -> Middleware:
    """The middleware that answers 401 to requests without a token."""

    @web.middleware
    async def authenticated(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.query.get("token")
        if given is not None and request.method == "GET" and request.path in _LOGIN_PATHS:
            if tokens.accepts(given):
                raise _logged_in(request, given, secure=settings.tls_certfile is not None)
            return _refused(request)
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


def _logged_in(request: web.Request, secret: str, *, secure: bool) -> web.HTTPException:
    """To the start page, without the token in its address."""
    answer = web.HTTPSeeOther("/", headers={"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})
    answer.set_cookie(
        COOKIE, secret, max_age=_MAX_AGE, path="/", httponly=True, samesite="Lax", secure=secure
    )
    return answer


def _refused(request: web.Request) -> web.Response:
    headers = {"WWW-Authenticate": 'Bearer realm="comfyk"', "Cache-Control": "no-store"}
    if request.path in _LOGIN_PATHS and "text/html" in request.headers.get("Accept", ""):
        return web.Response(status=401, text=_PAGE, content_type="text/html", headers=headers)
    raise ApiError(
        401,
        "unauthorized",
        "This server asks for a token.",
        "Send it as `Authorization: Bearer TOKEN`, or open /?token=TOKEN in a browser. "
        "`comfyk token create` makes one.",
        headers=headers,
    )
