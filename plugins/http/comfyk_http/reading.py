"""The one way to read queries and bodies: as JSON or text, checked against a model.

Clients of ComfyUI rarely set a content type, so a JSON body counts by what it is, not by its header. A value that
cannot be is refused with 400, but for the operations that ComfyUI's API lets answer with nothing but 200: those do
without it (`Forgiving`) and name it in a header.
"""

from __future__ import annotations

import asyncio
import codecs
from typing import Any, TypeVar

from aiohttp import web
from comfyk.api import ApiError, BadField
from comfyk.wire import loads
from pydantic import BaseModel, ValidationError

from comfyk_http.bodies import BODIES
from comfyk_http.json_size import holds_more_values
from comfyk_http.keys import SETTINGS
from comfyk_http.requests import Forgiving

M = TypeVar("M", bound=BaseModel)
F = TypeVar("F", bound=Forgiving)

_ROOM = 50  # levels of nesting, out of about 200
_LONG = 1_000_000  # bytes: to parse it takes its time


def _loads(data: bytes | bytearray, lax: bool) -> Any:
    """Parse a body that is nested less deeply than JSON may be, so that what wraps it can be read back too."""
    if lax and data.startswith(codecs.BOM_UTF8):
        data = data[len(codecs.BOM_UTF8) :]
    if data.count(b"[") + data.count(b"{") < _ROOM:
        return loads(data, nan=lax)
    value = loads(b"[" * _ROOM + data + b"]" * _ROOM, nan=lax)
    for _ in range(_ROOM):
        if len(value) != 1:
            raise ValueError("more than one value")
        value = value[0]
    return value


async def read_value(request: web.Request, *, lax: bool = False) -> Any:
    """The body as JSON of any kind. Raises ApiError (400, 413).

    With `lax` it may begin with a byte order mark, and hold NaN and infinities: prompts do that come from files.
    """
    body, values = await request.app[BODIES].read_for_json(request)
    most = request.app[SETTINGS].max_json_values
    if values > most and holds_more_values(body, most):
        raise ApiError(
            413,
            "too_many_values",
            f"The request's JSON holds more than {most:,} values.",
            "Raise the limit with the setting http.max_json_values.",
        )
    try:
        value = _loads(body, lax)
    except ValueError as error:
        raise ApiError(400, "invalid_json", "The request body is not valid JSON.", str(error)) from None
    if len(body) > _LONG:
        await asyncio.sleep(0)  # others are answered before more is done with it
    return value


async def read_json(request: web.Request, *, optional: bool = False, lax: bool = False) -> dict[str, Any]:
    """The body as a JSON object; with `optional` no body at all is an empty one, `lax` as above. Raises ApiError."""
    if optional and not (await request.app[BODIES].read(request)).strip():
        return {}
    body = await read_value(request, lax=lax)
    if not isinstance(body, dict):
        raise ApiError(400, "invalid_json", "The request body has to be a JSON object.")
    return body


def parse(model: type[M], values: Any) -> M:
    """Check a body, a form or a query. Raises BadField for the first wrong field."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise BadField(".".join(map(str, first["loc"])), first["msg"]) from None


def query_of(request: web.Request) -> dict[str, str]:
    """The query string; of a repeated parameter the first counts."""
    query = request.query
    return {name: query[name] for name in query}


def forgive(model: type[F], values: Any) -> tuple[F, list[str]]:
    """Check what a forgiving operation was sent. Returns what can be used of it, and the names of what cannot.

    Raises BadField for the fields that are refused all the same.
    """
    try:
        return model.model_validate(values), []
    except ValidationError as error:
        if not isinstance(values, dict):
            return model(), ["body"]
        wrong = {str(one["loc"][0]) for one in error.errors(include_url=False)}
    if not wrong.isdisjoint(model.refused):
        return parse(model, values), []
    return model.model_validate({name: values[name] for name in values if name not in wrong}), sorted(wrong)
