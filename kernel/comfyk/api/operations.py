"""What handlers say of themselves: the path, what they take, what they answer. Nothing here needs a web server."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import Any, get_type_hints

from comfyk.api.errors import ApiError, ErrorShape, as_object

_MARK = "comfyk_operation"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with one status."""

    description: str
    model: Any = None
    """What its JSON is like: a type, or where one is found (`"package.module:Name"`), so that models of answers,
    which only the document needs, are not imported before it is asked for. None and `bytes`: no JSON."""
    content: tuple[str, ...] = ()
    """The content types beside JSON's."""

    @property
    def type(self) -> Any:
        return resolve_name(self.model) if isinstance(self.model, str) else self.model


@dataclass
class Operation:
    """What is known of a handler beside its path and method."""

    id: str
    summary: str
    tag: str
    handler: Callable[..., Any]
    answers: Mapping[int, Answer]
    path: Mapping[str, Any] = field(default_factory=dict)
    """Types of path parameters that are not plain text."""
    query: Any = None
    """The model of the query, for a handler that reads it itself."""
    body: Any = None
    """The same for a JSON body."""
    form: Any = None
    """The model of a `multipart/form-data` body."""
    raw: tuple[str, ...] = ()
    """Content types of a body that is taken as it is."""
    optional_body: bool = False
    user: bool = False
    """Whether the header `Comfy-User` matters."""
    errors: ErrorShape | Callable[[ApiError], Any] = as_object
    """In which shape its errors are answered."""

    @cached_property
    def error_shape(self) -> ErrorShape:
        return self.errors if isinstance(self.errors, ErrorShape) else ErrorShape(self.errors)

    @cached_property
    def reads(self) -> dict[str, Any]:
        """`query` and `body`, as far as the server reads them for the handler, with their types."""
        handler: Any = inspect.unwrap(self.handler)
        # Only these two: what the rest is annotated with may be imported for type checkers alone.
        wanted = {
            name: handler.__annotations__[name]
            for name in ("query", "body")
            if name in handler.__annotations__
        }
        return get_type_hints(
            SimpleNamespace(__annotations__=wanted), handler.__globals__, include_extras=True
        )

    def model(self, part: str) -> Any:
        """The type of the `query` or the `body`, whoever reads it; None when there is none."""
        return self.reads.get(part, getattr(self, part))


def operation(
    id: str, summary: str, *, tag: str, answers: Mapping[int, Answer], **more: Any
) -> Callable[[Callable[..., Awaitable[Any]]], Callable[[Any], Awaitable[Any]]]:
    """Describe a handler; `more` are the further fields of `Operation`.

    To type checkers the handler then takes the request alone, as the server sees to the rest.
    """

    def mark(handler: Callable[..., Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
        setattr(handler, _MARK, Operation(id, summary, tag, handler, answers, **more))
        return handler

    return mark


def operation_of(handler: Any) -> Operation | None:
    """How a handler is described, or None."""
    return getattr(handler, _MARK, None)
