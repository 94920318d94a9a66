"""What requests may hold: pydantic models of bodies, forms and queries.

Unknown fields are ignored, since newer clients send more. `comfyk_http.reading` reads what is sent into these.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from comfyk.jobs import JobStatus
from comfyk.tasks import TaskStatus
from comfyk.wire import loads
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

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
JobId = Annotated[Any, Field(json_schema_extra={"type": "string", "format": "uuid"})]
"""A job's id, or whatever a client sends in its place: that is no job's id."""


class Body(BaseModel):
    # Validators are built when they are first needed: the start does not wait for them.
    model_config = ConfigDict(extra="ignore", defer_build=True)


def _required(*names: str) -> ConfigDict:
    """The document requires these fields; without one the operation answers as it does when nothing is found."""
    return ConfigDict(json_schema_extra={"required": list(names)})


class Forgiving(Body):
    """A body or a query of which values that cannot be are left out, as if they had not been sent.

    For operations that ComfyUI's API gives no status for a refusal. Every field has a default that does nothing.
    """

    refused: ClassVar[tuple[str, ...]] = ()
    """Fields that are refused all the same, since ComfyUI's API does not know them."""


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
    prompt_id: JobId = None
    number: Annotated[float, Field(ge=-1e15, le=1e15)] | None = None
    front: bool = False
    extra_data: dict[str, Any] | None = None
    client_id: str | None = None
    partial_execution_targets: list[str] | None = None
    workflow_id: JobId = None
    """Means something in the cloud only; taken, and not looked at, as the next."""
    workflow_version_id: JobId = None


class MoveRequest(Body):
    """Give a pending job another place: the front, a number, or (with neither) the end."""

    prompt_id: str
    front: bool = False
    number: Annotated[float, Field(ge=-1e15, le=1e15)] | None = None


class QueueRequest(Forgiving):
    """`POST /queue`: what ComfyUI takes, and `pause`, `resume` and `move`."""

    refused = ("pause", "resume", "move")

    clear: bool = False
    delete: list[str] = []
    pause: bool = False
    resume: bool = False
    move: MoveRequest | None = None


class HistoryRequest(Forgiving):
    clear: bool = False
    delete: list[str] = []
    files: Annotated[
        bool,
        Field(description="Also delete what the jobs themselves wrote into the output and temp folders."),
    ] = False


class InterruptRequest(Forgiving):
    prompt_id: JobId = None

    @model_validator(mode="before")
    @classmethod
    def _names_no_job(cls, sent: Any) -> Any:
        # Without an id everything is interrupted: not by a request that was meant to say something else.
        return sent if isinstance(sent, dict) or sent is None else {"prompt_id": sent}


class FreeRequest(Forgiving):
    unload_models: bool = False
    free_memory: bool = False


class HistoryQuery(Forgiving):
    max_items: Rows | None = None
    offset: Rows | None = None


class JobsQuery(Forgiving):
    status: str = ""
    workflow_id: str | None = None
    sort_by: Annotated[
        Literal["created_at", "execution_duration"],
        BeforeValidator(lambda value: _lower(value) or "created_at"),
    ] = "created_at"
    sort_order: Annotated[Literal["asc", "desc"], BeforeValidator(lambda value: _lower(value) or "desc")] = (
        "desc"
    )
    limit: Annotated[Rows, Field(ge=0)] | None = None
    offset: Rows = 0

    @property
    def statuses(self) -> list[JobStatus] | None:
        """None for all. No job has a status that there is not."""
        names = {name.strip().lower() for name in self.status.split(",") if name.strip()}
        return [status for status in JobStatus if status.value in names] if names else None


class WaitQuery(Body):
    """For whoever wants to hear of a job without asking again and again."""

    wait: Annotated[float, Field(ge=0)] | None = None
    """How many seconds to wait for news of the job, at most as many as the setting `http.max_wait` says."""


class TasksQuery(Body):
    task_name: str = ""
    idempotency_key: str = ""
    status: str = ""
    """One or more of `created`, `running`, `completed`, `failed` (and `cancelled`), separated by commas."""
    created_after: datetime | None = None
    created_before: datetime | None = None
    sort_order: Literal["asc", "desc"] = "desc"
    offset: Annotated[Rows, Field(ge=0)] = 0
    limit: Annotated[int, Field(ge=1, le=100)] = 20

    @property
    def statuses(self) -> list[TaskStatus] | None:
        """None for all. What was cancelled has failed as well; no task has a status that there is not."""
        names = {name.strip().lower() for name in self.status.split(",") if name.strip()}
        if "failed" in names:
            names.add("cancelled")
        return [status for status in TaskStatus if status.value in names] if names else None


class CancelRequest(Body):
    job_ids: list[Any]


class ViewQuery(Body):
    model_config = _required("filename")

    filename: str = ""
    type: Annotated[str, Field(json_schema_extra={"enum": ["input", "output", "temp"]})] = "output"
    subfolder: str = ""
    preview: str | None = None
    channel: Annotated[str, Field(json_schema_extra={"enum": ["rgba", "rgb", "a"]})] | None = None


class FilenameQuery(Body):
    model_config = _required("filename")

    filename: str = ""


class UploadForm(Body):
    """The fields of an upload; the file is `image`, which is read as its name."""

    image: Annotated[str, Field(json_schema_extra={"format": "binary"})]
    type: Annotated[Literal["input", "temp", "output"], BeforeValidator(lambda value: value or "input")] = (
        "input"
    )
    overwrite: str = ""
    subfolder: str = ""

    @property
    def overwrites(self) -> bool:
        return _true(self.overwrite)


class ListQuery(Body):
    model_config = _required("dir")

    dir: str = ""
    """Relative to the user's folder."""
    recurse: Flag = False
    full_info: Flag = False
    split: Flag = False


class TreeQuery(Body):
    path: str = ""


class WriteQuery(Body):
    overwrite: FlagOn = True
    full_info: Flag = False


class SettingsRequest(Forgiving):
    """Values by key."""

    model_config = ConfigDict(extra="allow")


class NewUser(Body):
    username: str


class LogSubscription(Forgiving):
    model_config = _required("clientId", "enabled")

    client_id: Annotated[str, Field(alias="clientId")] = ""
    enabled: bool = False


class SocketQuery(Body):
    client_id: Annotated[str | None, Field(alias="clientId")] = None


class OriginalRef(Body):
    """The picture that a mask belongs to."""

    filename: str
    subfolder: str = ""
    type: str = "output"


def _from_json(value: Any) -> Any:
    """A form's fields are text. Raises ValueError."""
    return loads(value) if isinstance(value, str) else value


class MaskForm(UploadForm):
    """A mask: the alpha channel of `image` goes into a copy of the picture that `original_ref` names."""

    original_ref: Annotated[OriginalRef, BeforeValidator(_from_json)]


def is_job_id(value: object) -> bool:
    """Whether it is a UUID in canonical form: ids are compared as text, so no other spelling will do."""
    if not isinstance(value, str) or len(value) != 36:
        return False
    try:
        return str(uuid.UUID(value)) == value
    except ValueError:
        return False
