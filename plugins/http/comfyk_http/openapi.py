"""The OpenAPI 3.1 document, made of what the handlers say of themselves (`comfyk.api.operation`).

Making it takes a moment and imports all models, so it is made when somebody asks.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import comfyk
from comfyk.api import Answer, Operation
from pydantic import TypeAdapter

from comfyk_http import errors, schemas

Json = dict[str, Any]
_Mode = Literal["validation", "serialization"]

BARE = ("/ws", "/internal/", "/docs", "/openapi.json")
"""Paths that are documented without `/api`, as ComfyUI has them."""

_ERROR_MODELS: Mapping[errors.Shape, Any] = {
    errors.as_object: schemas.ErrorObject,
    errors.as_prompt_error: schemas.PromptErrorResponse,
    errors.as_text: schemas.ErrorText,
    errors.as_coded: schemas.CodedError,
}
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
    errors: errors.Shape

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
        self._types: dict[str, tuple[Any, _Mode]] = {}
        for route in routes:
            for key, type, mode in _types(route):
                self._types[key] = type, mode
        adapters: list[tuple[str, _Mode, TypeAdapter[Any]]] = [
            (key, mode, TypeAdapter(type)) for key, (type, mode) in self._types.items()
        ]
        found, definitions = TypeAdapter.json_schemas(adapters, ref_template="#/components/schemas/{model}")
        self._schemas = {key: schema for (key, _), schema in found.items()}
        self._definitions = definitions.get("$defs", {})

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
            schema = {"application/json": {"schema": self._schemas[_key(route, "error")]}}
            answers[status] = {"description": "What is wrong", "content": schema}
        written["responses"] = answers
        return written

    def _parameters(self, route: Route) -> Iterator[Json]:
        for name in re.findall(r"\{(\w+)", route.path):
            schema = self._schemas[_key(route, "path", name)]
            yield {"name": name, "in": "path", "required": True, "schema": schema}
        if route.operation.user:
            yield _USER_HEADER
        if route.operation.model("query") is None:
            return
        query = self._resolved(self._schemas[_key(route, "query")])
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
            return {"multipart/form-data": {"schema": self._schemas[_key(route, "form")]}}
        if route.operation.model("body") is not None:
            return {"application/json": {"schema": self._schemas[_key(route, "body")]}}
        return {}

    def _answer(self, route: Route, status: int) -> Json:
        answer = route.operation.answers[status]
        written: Json = {"description": answer.description}
        if answer.content:
            binary = {"type": "string", "format": "binary"}
            written["content"] = {
                type: {"schema": {"type": "string"} if type.startswith("text/") else binary}
                for type in answer.content
            }
        elif answer.model is not None:
            written["content"] = {
                "application/json": {"schema": self._schemas[_key(route, "answer", str(status))]}
            }
        return written

    def _resolved(self, schema: Json) -> Json:
        ref = schema.get("$ref")
        return self._definitions[ref.rpartition("/")[2]] if ref else schema


def _key(route: Route, *parts: str) -> str:
    return "|".join((route.method, route.path, *parts))


def _types(route: Route) -> Iterator[tuple[str, Any, _Mode]]:
    """Every type that the operation takes or gives, with the key of its place."""
    operation = route.operation
    yield _key(route, "error"), _ERROR_MODELS[route.errors], "serialization"
    for name in re.findall(r"\{(\w+)", route.path):
        yield _key(route, "path", name), operation.path.get(name, str), "validation"
    for part in ("query", "body"):
        if operation.model(part) is not None:
            yield _key(route, part), operation.model(part), "validation"
    if operation.form is not None:
        yield _key(route, "form"), operation.form, "validation"
    for status, answer in operation.answers.items():
        if _is_json(answer):
            yield _key(route, "answer", str(status)), answer.type, "serialization"


def _is_json(answer: Answer) -> bool:
    return answer.model is not None and not answer.content


def _without_null(schema: Json) -> Json:
    """A parameter is left out, it is never null."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) != 1:
        return schema
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
    return {**rest, **choices[0]}
