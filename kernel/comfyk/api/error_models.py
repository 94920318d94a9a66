"""What errors look like to clients, for the OpenAPI document. Imported when somebody asks for it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class _Part(BaseModel):
    """An object that may have more fields than these."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)


class ErrorBody(_Part):
    type: str
    message: str
    details: str
    extra_info: dict[str, Any]


class _Beside(_Part):
    detail: str
    """More about it, as one text."""
    status_code: int
    """The status of the answer."""


class ErrorObject(_Beside):
    """What went wrong."""

    error: ErrorBody


class ErrorText(_Beside):
    """What went wrong, as a text."""

    error: str


class CodedBody(_Part):
    code: str
    message: str
    details: dict[str, Any]


class CodedError(_Beside):
    """What went wrong, with a code for programs."""

    error: CodedBody


class NodeProblem(_Part):
    type: str
    message: str
    details: str
    extra_info: dict[str, Any] = {}


class NodeError(_Part):
    errors: list[NodeProblem]
    class_type: str
    """Empty where the node names none."""
    dependent_outputs: list[Any]


class PromptErrorResponse(_Beside):
    error: ErrorBody
    node_errors: dict[str, NodeError]
