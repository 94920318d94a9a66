"""The OpenAPI 3.1 document, made of what the handlers say of themselves (`comfyk.api.operation`).

Making it takes a moment and imports all models, so it is made when somebody asks.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import comfyk
from comfyk.api import Answer, ErrorShape, Operation
from pydantic import TypeAdapter

log = logging.getLogger(__name__)

Json = dict[str, Any]
_Mode = Literal["validation", "serialization"]
_Adapter = tuple[str, _Mode, TypeAdapter[Any]]

BARE = ("/ws", "/internal/", "/docs", "/openapi.json")
"""Paths that are documented without `/api`, as ComfyUI has them."""

_INTRODUCTION = (
    "The ComfyUI API, as this server speaks it. Every path that begins with `/api` is served without it too. "
    "In multi-user mode the header `Comfy-User` says whose settings, files and jobs are meant; that keeps users "
    "apart and protects nothing. Where the server asks for a token, send it as `Authorization: Bearer TOKEN`, or "
    "open `/?token=TOKEN` once in a browser. Operations that ComfyUI documents no refusal for leave out what they "
    "cannot use of a request, and name it in the header `Comfyk-Ignored` of the answer."
)
_USER_HEADER = {
    "name": "Comfy-User",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "Whose request it is, in multi-user mode.",
}


@dataclass(frozen=True, slots=True)
class Route:
    """A described route."""

    method: str
    path: str
    """Without `/api`."""
    operation: Operation
    errors: ErrorShape
    plugin: str = ""
    """Whose it is."""

    @property
    def shown_path(self) -> str:
        path = re.sub(r"\{(\w+):[^}]*\}", r"{\1}", self.path)
        return path if path.startswith(BARE) else f"/api{path}"


def document(routes: Iterable[Route]) -> Json:
    """The whole document."""
    return _Writer(list(routes)).document()


class _Writer:
    """Gathers all types first, since pydantic names them all together, then writes the operations."""

    def __init__(self, routes: list[Route]) -> None:
        self._routes = routes
        self._inputs: dict[tuple[str, str], Any] = {}
        """The types of queries and bodies, by the route's key and the part."""
        adapters: list[_Adapter] = [one for route in routes for one in self._adapters(route)]
        try:
            found, definitions = _schemas(adapters)
        except Exception:  # a plugin's model that has no schema: its place stays empty
            adapters = [
                (key, mode, adapter if _has_schema(key, mode, adapter) else TypeAdapter(Any))
                for key, mode, adapter in adapters
            ]
            found, definitions = _schemas(adapters)
        self._found = {key: schema for (key, _), schema in found.items()}
        self._definitions = definitions.get("$defs", {})

    def _adapters(self, route: Route) -> Iterator[_Adapter]:
        """Every type that the operation takes or gives, with the key of its place. What is broken may be anything."""
        operation = route.operation
        for part in ("query", "body"):
            self._inputs[_key(route), part] = _tried(route, part, lambda part=part: operation.model(part))
        for key, type, mode in _types(route, self._inputs):
            yield key, mode, _tried(route, key, lambda type=type: TypeAdapter(type())) or TypeAdapter(Any)

    def document(self) -> Json:
        paths: dict[str, Json] = {}
        for route in self._routes:
            paths.setdefault(route.shown_path, {})[route.method.lower()] = self._operation(route)
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "comfyk",
                "version": comfyk.__version__,
                "description": _INTRODUCTION,
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "security": [{}, {"bearer": []}],
            "tags": [{"name": tag} for tag in dict.fromkeys(route.operation.tag for route in self._routes)],
            "paths": paths,
            "components": {
                "schemas": self._definitions,
                "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            },
        }

    def _operation(self, route: Route) -> Json:
        operation = route.operation
        written: Json = {
            "operationId": operation.id,
            "summary": operation.summary,
            "tags": [operation.tag],
        }
        if text := inspect.getdoc(operation.handler):
            written["description"] = text
        if parameters := list(self._parameters(route)):
            written["parameters"] = parameters
        if content := self._body(route):
            written["requestBody"] = {"required": not operation.optional_body, "content": content}
        answers = {str(status): self._answer(route, status) for status in operation.answers}
        # Any operation may be refused, interrupted or fail.
        for status in ("4XX", "5XX"):
            schema = {route.errors.content_type: {"schema": self._found[_key(route, "error")]}}
            answers[status] = {"description": "What is wrong", "content": schema}
        written["responses"] = answers
        return written

    def _parameters(self, route: Route) -> Iterator[Json]:
        for name in re.findall(r"\{(\w+)", route.path):
            schema = self._found[_key(route, "path", name)]
            yield {"name": name, "in": "path", "required": True, "schema": schema}
        if route.operation.user:
            yield _USER_HEADER
        if self._inputs[_key(route), "query"] is None:
            return
        query = self._resolved(self._found[_key(route, "query")])
        for name, schema in query.get("properties", {}).items():
            schema = _without_null(schema)
            yield {
                "name": name,
                "in": "query",
                "required": name in query.get("required", ()),
                "schema": {key: value for key, value in schema.items() if key != "title"},
            }

    def _body(self, route: Route) -> Json:
        if route.operation.raw:
            return {type: {"schema": {"type": "string", "format": "binary"}} for type in route.operation.raw}
        if route.operation.form is not None:
            return {"multipart/form-data": {"schema": self._found[_key(route, "form")]}}
        if self._inputs[_key(route), "body"] is not None:
            return {"application/json": {"schema": self._found[_key(route, "body")]}}
        return {}

    def _answer(self, route: Route, status: int) -> Json:
        answer = route.operation.answers[status]
        written: Json = {"description": answer.description}
        content: Json = {}
        if _is_json(answer):
            content["application/json"] = {"schema": self._found[_key(route, "answer", str(status))]}
        for type in answer.content:
            text = {"type": "string"}
            content[type] = {"schema": text if type.startswith("text/") else {**text, "format": "binary"}}
        if content:
            written["content"] = content
        return written

    def _resolved(self, schema: Json) -> Json:
        ref = schema.get("$ref")
        return self._definitions[ref.rpartition("/")[2]] if ref else schema


def _key(route: Route, *parts: str) -> str:
    return "|".join((route.method, route.path, *parts))


def _types(
    route: Route, inputs: Mapping[tuple[str, str], Any]
) -> Iterator[tuple[str, Callable[[], Any], _Mode]]:
    """The types by the key of their place; each is looked up when it is called for."""
    operation = route.operation
    yield (
        _key(route, "error"),
        lambda: Any if route.errors.type is None else route.errors.type,
        "serialization",
    )
    for name in re.findall(r"\{(\w+)", route.path):
        yield _key(route, "path", name), lambda name=name: operation.path.get(name, str), "validation"
    for part in ("query", "body"):
        if (type := inputs[_key(route), part]) is not None:
            yield _key(route, part), lambda type=type: type, "validation"
    if operation.form is not None:
        yield _key(route, "form"), lambda: operation.form, "validation"
    for status, answer in operation.answers.items():
        if _is_json(answer):
            yield _key(route, "answer", str(status)), lambda answer=answer: answer.type, "serialization"


def _tried(route: Route, what: str, find: Callable[[], Any]) -> Any:
    """What is found, or None and a line in the log: what one plugin says of itself does not keep others from it."""
    try:
        return find()
    except Exception as error:
        log.warning(
            "%s of the plugin %s is not described whole: %s: %s: %s",
            *(route.operation.id, route.plugin, what, type(error).__name__, error),
        )
        return None


def _has_schema(key: str, mode: _Mode, adapter: TypeAdapter[Any]) -> bool:
    try:
        adapter.json_schema(mode=mode)
    except Exception as error:
        log.warning("%s is not described: %s: %s", key, type(error).__name__, error)
        return False
    return True


def _schemas(adapters: list[_Adapter]) -> tuple[Any, Json]:
    return TypeAdapter.json_schemas(adapters, ref_template="#/components/schemas/{model}")


def _is_json(answer: Answer) -> bool:
    return answer.model not in (None, bytes)


def _without_null(schema: Json) -> Json:
    """A parameter is left out, it is never null."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) != 1:
        return schema
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
    return {**rest, **choices[0]}
