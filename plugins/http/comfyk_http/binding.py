"""From a handler to what aiohttp calls: the query and the body are read and checked before the handler runs."""

from __future__ import annotations

import functools
from typing import Any

from aiohttp import web
from comfyk.api import Operation, operation_of
from pydantic import BaseModel

from comfyk_http.errors import Handler
from comfyk_http.requests import parse, parse_query, read_json, read_value


def bind(handler: Any) -> Handler:
    """The handler as aiohttp wants it, with nothing but the request. One without a description stays as it is.

    The types of what it takes are looked at when it is first called, so that a start does not wait for it.
    """
    operation = operation_of(handler)
    if operation is None or not {"query", "body"} & handler.__annotations__.keys():
        return handler

    @functools.wraps(handler)
    async def bound(request: web.Request) -> web.StreamResponse:
        given = {}
        for part, model in operation.reads.items():
            given[part] = parse_query(model, request) if part == "query" else await _body(operation, request)
        return await handler(request, **given)

    return bound


async def _body(operation: Operation, request: web.Request) -> Any:
    model = operation.reads["body"]
    if isinstance(model, type) and issubclass(model, BaseModel):
        return parse(model, await read_json(request, optional=operation.optional_body))
    return await read_value(request)
