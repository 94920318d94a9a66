"""From a handler to what aiohttp calls: the query and the body are read and checked before the handler runs."""

from __future__ import annotations

import functools
import logging
from typing import Any

from aiohttp import web
from comfyk.api import ApiError, Operation, operation_of
from pydantic import BaseModel

from comfyk_http.bodies import BODIES
from comfyk_http.errors import Handler
from comfyk_http.json_answers import IGNORED
from comfyk_http.reading import forgive, parse, query_of, read_json, read_value
from comfyk_http.requests import Forgiving

log = logging.getLogger(__name__)


def bind(handler: Any) -> Handler:
    """The handler as aiohttp wants it, with nothing but the request. One without a description stays as it is.

    The types of what it takes are looked at when it is first called, so that a start does not wait for it.
    """
    operation = operation_of(handler)
    if operation is None or not {"query", "body"} & handler.__annotations__.keys():
        return handler

    @functools.wraps(handler)
    async def bound(request: web.Request) -> web.StreamResponse:
        given: dict[str, Any] = {}
        ignored: list[str] = []
        for part, model in operation.reads.items():
            if isinstance(model, type) and issubclass(model, Forgiving):
                sent = query_of(request) if part == "query" else await _whatever(request)
                given[part], wrong = forgive(model, sent)
                ignored += wrong
            elif part == "query":
                given[part] = parse(model, query_of(request))
            else:
                given[part] = await _body(operation, request)
        response = await handler(request, **given)
        if ignored:
            log.debug("%s %s: ignored %s", request.method, request.path, ", ".join(ignored))
            response.headers[IGNORED] = ", ".join(ignored)
        return response

    return bound


async def _body(operation: Operation, request: web.Request) -> Any:
    model = operation.reads["body"]
    if isinstance(model, type) and issubclass(model, BaseModel):
        return parse(model, await read_json(request, optional=operation.optional_body))
    return await read_value(request)


async def _whatever(request: web.Request) -> Any:
    """The body as JSON of any kind; none at all is an empty object, and what is no JSON stays as it is."""
    sent = await request.app[BODIES].read(request)
    try:
        return await read_value(request) if sent.strip() else {}
    except ApiError as error:
        if error.status != 400:
            raise
        return sent
