"""The page on which a browser is asked for its token, and the cookie in which the browser keeps it."""

from __future__ import annotations

from aiohttp import web

COOKIE = "comfyk_token"
PATH = "/__comfyk/token"
"""Where the page sends the token."""
LOGIN_PATHS = ("/", "/api", "/api/")
"""Where a token may stand in the address: `/?token=...`."""

_MAX_AGE = 365 * 24 * 3600
_LONGEST = 4096

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>comfyk</title>
<style>body { font: 16px/1.5 system-ui, sans-serif; max-width: 30rem; margin: 4rem auto; padding: 0 1rem; }</style>
<h1>comfyk</h1>
<p>This server asks for a token. <code>comfyk token create</code> makes one, on the machine where it runs.</p>
@WRONG@<form method="post" action="@PATH@"><input name="token" type="password" autocomplete="current-password"
autofocus required aria-label="Token"> <button>Open</button></form>
<p>This browser will remember it.</p>
</html>
"""
_WRONG = '<p role="alert"><strong>There is no such token, or it was taken back.</strong></p>\n'


def wants_page(request: web.Request) -> bool:
    """Whether a browser asks for a page to show, rather than a script or a program for an answer."""
    if request.method not in ("GET", "HEAD"):
        return False
    mode = request.headers.get("Sec-Fetch-Mode")
    return mode in (None, "navigate") and "text/html" in request.headers.get("Accept", "")


def page(headers: dict[str, str], *, wrong: bool = False) -> web.Response:
    """The page; `wrong` says that the token that was sent is none."""
    text = _PAGE.replace("@PATH@", PATH).replace("@WRONG@", _WRONG if wrong else "")
    return web.Response(status=401, text=text, content_type="text/html", headers=headers)


def is_sent(request: web.Request) -> bool:
    """Whether the page sends a token."""
    return request.method == "POST" and request.path == PATH


async def sent_token(request: web.Request) -> str:
    """The token that the page sent; empty when there is none."""
    length = request.content_length
    if request.content_type != "application/x-www-form-urlencoded" or length is None or length > _LONGEST:
        return ""
    value = (await request.post()).get("token")
    return value.strip() if isinstance(value, str) else ""


def logged_in(secret: str, *, secure: bool) -> web.HTTPException:
    """To the start page, without the token in its address; the browser keeps it, and no script can read it."""
    answer = web.HTTPSeeOther("/", headers={"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})
    answer.set_cookie(
        COOKIE, secret, max_age=_MAX_AGE, path="/", httponly=True, samesite="Strict", secure=secure
    )
    return answer
