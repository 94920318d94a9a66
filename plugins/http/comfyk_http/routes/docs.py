"""`/openapi.json` and `/docs`: the API described, for programs and for people."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web
from comfyk.api import operation
from comfyk.wire import dumps

from comfyk_http.answer_descriptions import gives, sends
from comfyk_http.json_answers import json_bytes
from comfyk_http.keys import ROUTES

_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
}


def _document(request: web.Request) -> dict[str, Any]:
    from comfyk_http.openapi import document
    from comfyk_http.routing import described

    return document(described(request.app[ROUTES]))


@operation(
    "getOpenApi",
    "This description, as OpenAPI 3.1",
    tag="docs",
    answers={200: gives("The document", dict[str, Any])},
)
async def get_document(request: web.Request) -> web.Response:
    """Made of the handlers' own models, with the routes of all plugins that describe theirs."""
    body = await asyncio.to_thread(lambda: dumps(_document(request)))
    return json_bytes(body, headers={"Cache-Control": "no-cache"})


@operation(
    "getDocs", "This description, as a page", tag="docs", answers={200: sends("The page", "text/html")}
)
async def get_page(request: web.Request) -> web.Response:
    """Without scripts, and without anything from other servers."""
    from comfyk_http.docs_page import page

    text = await asyncio.to_thread(lambda: page(_document(request)))
    return web.Response(text=text, content_type="text/html", headers=_HEADERS)
