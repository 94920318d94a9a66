"""Errors that handlers raise, and the shapes in which clients get them. Nothing here needs a web server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

Json = dict[str, Any]

_MODELS = "comfyk.api.error_models"


class ApiError(Exception):
    """Answered as `status` with a JSON body that says what is wrong, and with what."""

    def __init__(
        self,
        status: int,
        type: str,
        message: str,
        details: str = "",
        *,
        extra_info: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`type` is for programs, `message` for people; `extra` adds fields beside `error`."""
        super().__init__(message)
        self.status = status
        self.type = type
        self.message = message
        self.details = details
        self.extra_info = dict(extra_info or {})
        self.extra = dict(extra or {})
        self.headers = headers


class BadField(ApiError):
    """400: a field of the request is not what it has to be."""

    def __init__(self, field: str, message: str, *, type: str = "invalid_request", status: int = 400) -> None:
        super().__init__(
            status, type, f"{field}: {message}" if field else message, extra_info={"field": field}
        )


@dataclass(frozen=True, slots=True)
class ErrorShape:
    """How the errors of an operation are written, and how the OpenAPI document describes that."""

    write: Callable[[ApiError], Any]
    """Gives the JSON of the answer's body."""
    model: Any = None
    """What that is like: a type, or where one is found (`"package.module:Name"`). None: it is not described."""
    content_type: str = "application/json"

    @property
    def type(self) -> Any:
        """Raises ImportError and AttributeError when the model is not where it is said to be."""
        return resolve_name(self.model) if isinstance(self.model, str) else self.model


def error_shape(
    model: Any = None, content_type: str = "application/json"
) -> Callable[[Callable[[ApiError], Any]], ErrorShape]:
    """Make a function that writes errors a shape, for `operation(..., errors=...)`.

    @error_shape(Problem, "application/problem+json")
    def as_problem(error: ApiError) -> dict[str, Any]:
        return {"title": error.message, "status": error.status}
    """
    return lambda write: ErrorShape(write, model, content_type)


@error_shape(f"{_MODELS}:ErrorObject")
def as_object(error: ApiError) -> Json:
    """The common shape: `{"error": {"type", "message", "details", "extra_info"}}`."""
    body = {
        "type": error.type,
        "message": error.message,
        "details": error.details or error.message,
        "extra_info": error.extra_info,
    }
    return {"error": body, **_beside(error)}


@error_shape(f"{_MODELS}:PromptErrorResponse")
def as_prompt_error(error: ApiError) -> Json:
    """The common shape with `node_errors` beside it, as `POST /prompt` answers."""
    return {**as_object.write(error), "node_errors": error.extra.get("node_errors", {})}


@error_shape(f"{_MODELS}:ErrorText")
def as_text(error: ApiError) -> Json:
    """`{"error": "what is wrong"}`, as the jobs and users routes answer."""
    return {"error": error.message, **_beside(error)}


@error_shape(f"{_MODELS}:CodedError")
def as_coded(error: ApiError) -> Json:
    """`{"error": {"code", "message", "details"}}`, as the asset routes answer."""
    body = {"code": error.type.upper(), "message": error.message, "details": error.extra_info}
    return {"error": body, **_beside(error)}


def _beside(error: ApiError) -> Json:
    """What stands beside `error` in every shape, for clients of other servers of this API."""
    return {"detail": error.details or error.message, "status_code": error.status, **error.extra}
