"""For authors of routes: a handler says what it takes and answers, and the server sees to the rest.

    @operation("getThing", "One thing", tag="thing", answers={200: Answer("It", Thing), 404: Answer("None")})
    async def get_thing(request: web.Request, query: ThingQuery) -> web.Response: ...

The server reads the query string into the parameter `query` and a JSON body into `body`, checked against the model
that each is annotated with, and describes the operation by the same models in its OpenAPI document: what is served
and what is documented cannot part. A handler without `@operation` is served all the same, undocumented.

Errors are raised as `ApiError`. `user_of` says who asks, `read_form` and `read_file` take uploads in, `file_answer`
sends files. Nothing here needs a web server, and no handler needs anything else than this and aiohttp.
"""

from typing import TYPE_CHECKING, Any

from comfyk.api.content_types import content_type, disposition, runs_in_browser
from comfyk.api.errors import (
    ApiError,
    BadField,
    ErrorShape,
    as_coded,
    as_object,
    as_prompt_error,
    as_text,
    error_shape,
)
from comfyk.api.operations import Answer, Operation, operation, operation_of
from comfyk.api.received import Form, ReceivedFile, claim, is_leftover, remove_leftovers
from comfyk.api.requests import (
    RequestServices,
    Show,
    Watch,
    client_has,
    file_answer,
    read_file,
    read_form,
    read_json,
    scope_of,
    serve_requests,
    user_folder,
    user_of,
)

if TYPE_CHECKING:
    from comfyk.api.error_models import CodedError, ErrorObject, ErrorText, NodeError, PromptErrorResponse

__all__ = [
    "Answer",
    "ApiError",
    "BadField",
    "CodedError",
    "ErrorObject",
    "ErrorShape",
    "ErrorText",
    "Form",
    "NodeError",
    "Operation",
    "PromptErrorResponse",
    "ReceivedFile",
    "RequestServices",
    "Show",
    "Watch",
    "as_coded",
    "as_object",
    "as_prompt_error",
    "as_text",
    "claim",
    "client_has",
    "content_type",
    "disposition",
    "error_shape",
    "file_answer",
    "is_leftover",
    "operation",
    "operation_of",
    "read_file",
    "read_form",
    "read_json",
    "remove_leftovers",
    "runs_in_browser",
    "scope_of",
    "serve_requests",
    "user_folder",
    "user_of",
]

_MODELS = frozenset({"CodedError", "ErrorObject", "ErrorText", "NodeError", "PromptErrorResponse"})
"""Models of error answers: only the OpenAPI document needs them, so they are made when it is asked for."""


def __getattr__(name: str) -> Any:
    if name not in _MODELS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from comfyk.api import error_models

    return getattr(error_models, name)
