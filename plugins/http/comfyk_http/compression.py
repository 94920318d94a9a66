"""Compressed answers, for those who switch them on: worth it over slow networks, not on one machine."""

from __future__ import annotations

from aiohttp import web

from comfyk_http.errors import Handler

_SMALLEST = 1024
_TYPES = ("application/json", "text/plain")


@web.middleware
async def compress(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Compress JSON and plain text for clients that take it."""
    response = await handler(request)
    if (
        isinstance(response, web.Response)
        and response.content_type in _TYPES
        and isinstance(response.body, bytes)
        and len(response.body) >= _SMALLEST
        and "Content-Encoding" not in response.headers
    ):
        response.enable_compression()
    return response
