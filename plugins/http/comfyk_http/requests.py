"""What requests may hold: pydantic models of bodies and queries, and the one way to read them.

Clients of ComfyUI rarely set a content type, so a JSON body counts by what it is, not by its header. Unknown fields
are ignored, since newer clients send more.
"""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from aiohttp import web
from comfyk.api import ApiError, BadField
from comfyk.jobs.model import JobStatus
from comfyk.wire import loads
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from comfyk_http.keys import SETTINGS, USERS
from comfyk_http.users import DEFAULT, SYSTEM_PREFIX, UnknownUserError

M = TypeVar("M", bound=BaseModel)

_ROOM = 50  # levels of nesting, out of about 200
_FAR = 2**31 - 1  # beyond it nothing is ever stored, and databases refuse the number


def _near(value: Any) -> Any:
    """Read a number of rows; a huge one means the same as a large one."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return value
    return max(-_FAR, min(number, _FAR))


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


Rows = Annotated[int, BeforeValidator(_near)]


class Body(BaseModel):
    # Validators are built when they are first needed: the start does not wait for them.
    model_config = ConfigDict(extra="ignore", defer_build=True)


def _true(value: Any) -> bool:
    """ComfyUI's flags: `true` in any case is true, whatever else is false."""
    return value is True or (isinstance(value, str) and value.lower() in ("true", "1"))


def _not_false(value: Any) -> bool:
    return not (value is False or (isinstance(value, str) and value.lower() in ("false", "0")))


Flag = Annotated[bool, BeforeValidator(_true)]
FlagOn = Annotated[bool, BeforeValidator(_not_false)]
"""A flag that is on unless it is said to be off."""


class PromptRequest(Body):
    """A prompt to execute."""

    prompt: dict[str, Any]
    prompt_id: Annotated[Any, Field(json_schema_extra={"type": "string", "format": "uuid"})] = None
    number: Annotated[float, Field(ge=-1e15, le=1e15)] | None = None
    front: bool = False
    extra_data: dict[str, Any] | None = None
    client_id: str | None = None
    partial_execution_targets: list[str] | None = None


class MoveRequest(Body):
    """Give a pending job another place: the front, a number, or (with neither) the end."""

    prompt_id: str
    front: bool = False
    number: Annotated[float, Field(ge=-1e15, le=1e15)] | None = None


class QueueRequest(Body):
    """`POST /queue`: what ComfyUI takes, and `pause`, `resume` and `move`."""

    clear: bool = False
    delete: list[str] = []
    pause: bool = False
    resume: bool = False
    move: MoveRequest | None = None


class HistoryRequest(Body):
    clear: bool = False
    delete: list[str] = []


class InterruptRequest(Body):
    prompt_id: str | None = None


class FreeRequest(Body):
    unload_models: bool = False
    free_memory: bool = False


class HistoryQuery(Body):
    max_items: Rows | None = None
    offset: Rows | None = None


class JobsQuery(Body):
    status: str = ""
    workflow_id: str | None = None
    sort_by: Annotated[
        Literal["created_at", "execution_duration"],
        BeforeValidator(lambda value: _lower(value) or "created_at"),
    ] = "created_at"
    sort_order: Annotated[Literal["asc", "desc"], BeforeValidator(lambda value: _lower(value) or "desc")] = (
        "desc"
    )
    limit: Annotated[Rows, Field(gt=0)] | None = None
    offset: Rows = 0

    @property
    def statuses(self) -> list[JobStatus] | None:
        """None for all. Raises BadField for a status that there is not."""
        names = [name.strip().lower() for name in self.status.split(",") if name.strip()]
        known = [status.value for status in JobStatus]
        if unknown := [name for name in names if name not in known]:
            raise BadField("status", f"there is no {', '.join(unknown)}; valid values: {', '.join(known)}")
        return [JobStatus(name) for name in names] or None


class CancelRequest(Body):
    job_ids: list[Any]


class ViewQuery(Body):
    filename: str
    type: Literal["input", "output", "temp"] = "output"
    subfolder: str | None = None
    preview: str | None = None
    channel: Literal["rgba", "rgb", "a"] | None = None


class FilenameQuery(Body):
    filename: str


class UploadForm(Body):
    """The fields of an upload; the file is `image`."""

    image: Annotated[str, Field(json_schema_extra={"format": "binary"})]
    type: Literal["input", "temp", "output"] = "input"
    overwrite: str = ""
    subfolder: str = ""


class ListQuery(Body):
    dir: str
    """Relative to the user's folder."""
    recurse: Flag = False
    full_info: Flag = False
    split: Flag = False


class TreeQuery(Body):
    path: str = ""


class WriteQuery(Body):
    overwrite: FlagOn = True
    full_info: Flag = False


class SettingsRequest(Body):
    """Values by key."""

    model_config = ConfigDict(extra="allow")


class NewUser(Body):
    username: str


class LogSubscription(Body):
    client_id: Annotated[str, Field(alias="clientId")]
    enabled: bool


class SocketQuery(Body):
    client_id: Annotated[str | None, Field(alias="clientId")] = None


class OriginalRef(Body):
    """The picture that a mask belongs to."""

    filename: str
    subfolder: str = ""
    type: str = "output"


class MaskForm(UploadForm):
    """A mask: the alpha channel of `image` goes into a copy of the picture that `original_ref` names."""

    original_ref: OriginalRef


def _loads(data: bytes) -> Any:
    """Parse a body that is nested less deeply than JSON may be, so that what wraps it can be read back too."""
    if data.count(b"[") + data.count(b"{") < _ROOM:
        return loads(data)
    value = loads(b"[" * _ROOM + data + b"]" * _ROOM)
    for _ in range(_ROOM):
        if len(value) != 1:
            raise ValueError("more than one value")
        value = value[0]
    return value


async def read_value(request: web.Request) -> Any:
    """The body as JSON of any kind. Raises ApiError."""
    try:
        return _loads(await request.read())
    except ValueError as error:
        raise ApiError(400, "invalid_json", "The request body is not valid JSON.", str(error)) from None


async def read_json(request: web.Request, *, optional: bool = False) -> dict[str, Any]:
    """The body as a JSON object; with `optional` no body at all is an empty one. Raises ApiError."""
    if optional and not (await request.read()).strip():
        return {}
    body = await read_value(request)
    if not isinstance(body, dict):
        raise ApiError(400, "invalid_json", "The request body has to be a JSON object.")
    return body


def parse(model: type[M], values: Any, *, within: str = "") -> M:
    """Check a body, a query, or a part of one that is called `within`. Raises BadField for the first wrong field."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(map(str, (*filter(None, [within]), *first["loc"])))
        raise BadField(field, first["msg"]) from None


def parse_query(model: type[M], request: web.Request) -> M:
    """Check the query string; of a repeated parameter the first counts."""
    query = request.query
    return parse(model, {name: query[name] for name in query})


def is_job_id(value: object) -> bool:
    """Whether it is a UUID in canonical form: ids are compared as text, so no other spelling will do."""
    if not isinstance(value, str) or len(value) != 36:
        return False
    try:
        return str(uuid.UUID(value)) == value
    except ValueError:
        return False


def user_of(request: web.Request) -> str:
    """Whose request it is: `default`, but with `multi_user` the one named by the header `Comfy-User`."""
    if not request.app[SETTINGS].multi_user:
        return DEFAULT
    user = request.headers.get("Comfy-User", DEFAULT)
    if not user.isprintable() or len(user) > 255:
        raise BadField("Comfy-User", "not the name of a user")
    if user.startswith(SYSTEM_PREFIX):
        raise ApiError(401, "unknown_user", f"Unknown user: {user}", extra_info={"field": "Comfy-User"})
    return user


async def folder_of(request: web.Request) -> Path:
    """The folder of the user whose request it is. Raises ApiError (401) for a user that there is not."""
    user = user_of(request)
    try:
        return await asyncio.to_thread(request.app[USERS].folder, user)
    except UnknownUserError:
        raise ApiError(
            401, "unknown_user", f"Unknown user: {user}", extra_info={"field": "Comfy-User"}
        ) from None


def view_of(request: web.Request) -> str | None:
    """Whose jobs the request may see: None for all of them, which is so without `multi_user`."""
    return user_of(request) if request.app[SETTINGS].multi_user else None
