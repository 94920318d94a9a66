"""What the answers of the http plugin's routes hold. Imported when somebody asks for the OpenAPI document.

Fields that are not always there have a default; the document then does not require them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from comfyk.api import CodedError, ErrorObject, ErrorText, NodeError, PromptErrorResponse
from pydantic import BaseModel, ConfigDict, Field, RootModel

__all__ = ["CodedError", "ErrorObject", "ErrorText", "PromptErrorResponse"]


class Part(BaseModel):
    """An object that may have more fields than these."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)


Json = dict[str, Any]


# --- prompt, queue, history, jobs -------------------------------------------------------------------------------


class ExecInfo(Part):
    queue_remaining: int
    """Pending and running jobs."""
    paused: bool = False
    """There while the queue is paused."""


class PromptInfo(Part):
    exec_info: ExecInfo


class PromptResponse(Part):
    prompt_id: UUID
    number: float
    """The place in the queue: the lowest runs first."""
    node_errors: dict[str, NodeError]
    """What is wrong behind outputs that are not executed."""


class ComfyQueue(Part):
    """The queue. Each item is `[number, prompt_id, prompt, extra_data, outputs_to_execute]`."""

    queue_running: list[list[Any]]
    queue_pending: list[list[Any]]


class HaivenQueue(Part):
    """The queue as some deployments show it (`http.queue_shape = "haiven"`)."""

    queue_running: UUID | None
    queue_pending: list[Annotated[list[Any], Field(min_length=2, max_length=2)]]
    """Each `[prompt_id, {"prompt", "outputs"}]`."""


class QueueInfo(RootModel[ComfyQueue | HaivenQueue]):
    """The queue, in the shape that the setting `http.queue_shape` names."""


class HistoryStatus(Part):
    status_str: str
    completed: bool
    messages: list[Any]
    status_code: int = 100
    """100 for success, 0 for anything else."""


class HistoryEntry(Part):
    prompt: list[Any]
    """`[number, prompt_id, prompt, extra_data, outputs_to_execute]`."""
    outputs: Json
    status: HistoryStatus
    meta: Json
    timestamp: float = 0
    """When the job ended, in seconds since the epoch."""


class History(RootModel[dict[str, HistoryEntry]]):
    """Entries by prompt id."""


class FilesDeleted(Part):
    files_deleted: int


class HistoryChanged(RootModel[FilesDeleted | None]):
    """Something to tell when files were to be deleted, else null."""


class ExecutionError(Part):
    node_id: str
    """Empty if the error is no node's."""
    node_type: str
    exception_message: str
    exception_type: str
    traceback: list[str]
    current_inputs: Json
    current_outputs: Json
    """The nodes that were done."""


class JobEntry(Part):
    """A line of the list. Times are milliseconds since the epoch."""

    id: UUID
    status: Literal["pending", "in_progress", "completed", "failed", "cancelled"]
    priority: float
    create_time: float
    execution_start_time: float = 0
    execution_end_time: float = 0
    execution_error: ExecutionError = Field(None, validate_default=False)  # type: ignore[assignment]
    preview_output: Json = {}
    """The output that stands for the job."""
    outputs_count: int = 0
    previewable_outputs_count: int = 0
    workflow_id: str = ""


class RunningNode(Part):
    node_id: str
    value: float
    max: float


class JobProgress(Part):
    """How far a job is that runs on this server."""

    value: float
    """Of 1, each node counting the same."""
    nodes_done: int
    nodes_total: int
    """The nodes of the prompt, also those that its outputs do not need."""
    running: list[RunningNode]


class JobDetail(JobEntry):
    workflow: Json
    """`prompt` and `extra_data`."""
    progress: JobProgress = Field(None, validate_default=False)  # type: ignore[assignment]
    """There while the job runs."""
    outputs: Json = {}
    update_time: float = 0
    execution_status: Json = {}
    execution_meta: Json = {}


class PromptOutcome(PromptResponse, JobDetail):
    """A prompt that was waited for: what was said when it was queued, and the job as it is now."""


class PromptAnswer(RootModel[PromptOutcome | PromptResponse]):
    """That it is queued; to a request with `wait` with how it ended."""


class PaginationInfo(Part):
    offset: int
    limit: int
    total: int
    has_more: bool


class JobsPage(Part):
    jobs: list[JobEntry]
    pagination: PaginationInfo


class Cancelled(Part):
    cancelled: bool
    """Whether there was something to cancel."""


class TaskProgress(Part):
    value: float
    total: float
    """0 while it is not known how much there is to do."""
    message: str


class TaskEntry(Part):
    """Background work of the server."""

    id: UUID
    task_name: str
    title: str
    """What it works on, for people."""
    status: Literal["created", "running", "completed", "failed"]
    cancelled: bool
    """Whether it failed because somebody cancelled it."""
    create_time: datetime
    started_at: datetime = Field(None, validate_default=False)  # type: ignore[assignment]
    completed_at: datetime = Field(None, validate_default=False)  # type: ignore[assignment]
    progress: TaskProgress


class TaskDetail(TaskEntry):
    idempotency_key: str
    payload: Json
    update_time: datetime
    result: Json = {}
    error: str = ""


class TasksPage(Part):
    tasks: list[TaskEntry]
    pagination: PaginationInfo


class PackEntry(Part):
    """A node pack."""

    name: str
    path: str
    state: Literal["loading", "loaded", "failed", "disabled"]
    reason: str
    """Why it failed or is left out, in one line."""
    error: str
    """The same with the traceback; also what went wrong in a pack that loaded all the same."""
    nodes: list[str]
    seconds: float
    """How long it took to load."""


class PacksList(Part):
    packs: list[PackEntry]


class Freed(Part):
    """What was freed, such as `models` and `bytes`; `deferred` when that has to wait for the running job."""

    deferred: bool = False


# --- files ------------------------------------------------------------------------------------------------------


class UploadResult(Part):
    name: str
    """The name that the file got."""
    subfolder: str
    type: str


class FullFile(Part):
    path: str
    size: int
    modified: int
    """Milliseconds since the epoch."""
    created: float


class FileList(RootModel[list[str] | list[FullFile] | list[list[str]]]):
    """Paths; with `full_info` objects; with `split` each path and its parts."""


class TreeEntry(Part):
    name: str
    path: str
    type: Literal["file", "directory"]
    size: int = 0
    modified: float = 0
    """Seconds since the epoch."""


class Tree(RootModel[list[TreeEntry]]):
    """Directories and files."""


class UserDataResponse(RootModel[FullFile | str]):
    """The path of the file; with `full_info` more."""


class UserInfo(Part):
    storage: Literal["server"]
    migrated: bool = False
    """Without multi-user mode: whether the user has a folder."""
    users: dict[str, str] = {}
    """In multi-user mode: names by id."""


# --- system -----------------------------------------------------------------------------------------------------


class SystemInfo(Part):
    os: str
    python_version: str
    embedded_python: bool
    comfyui_version: str
    comfyk_version: str
    pytorch_version: str
    argv: list[str]
    ram_total: int
    ram_free: int
    required_frontend_version: str = ""
    installed_templates_version: str = ""
    required_templates_version: str = ""


class DeviceStats(Part):
    name: str
    type: str
    index: float
    vram_total: int
    vram_free: int
    torch_vram_total: int
    torch_vram_free: int


class Gpu(Part):
    """A device, in megabytes."""

    name: str
    vram_total: int
    vram_free: int
    vram_used: int


class Ram(Part):
    """The memory, in megabytes."""

    total: int
    used: int
    available: int


class SystemStats(Part):
    system: SystemInfo
    devices: list[DeviceStats]
    gpus: list[Gpu]
    ram: Ram
    uptime: float
    """Seconds since the server started."""


class Features(Part):
    max_upload_size: int
    supports_preview_metadata: bool
    assets: bool


class NodeInfo(Part):
    input: Json
    input_order: dict[str, list[str]] = {}
    output: list[Any]
    output_is_list: list[bool]
    output_name: list[str]
    name: str
    display_name: str
    description: str
    python_module: str
    category: str
    output_node: bool
    output_tooltips: list[Any] = []
    deprecated: bool = False
    experimental: bool = False
    api_node: bool = False
    is_input_list: bool = False
    dev_only: bool = False
    has_intermediate_output: bool = False
    search_aliases: list[str] = []
    essentials_category: str | None = None


class NodeInfos(RootModel[dict[str, NodeInfo]]):
    """Nodes by name."""


class ModelFolder(Part):
    name: str
    folders: list[str]
    extensions: list[str] = []


class ModelFile(Part):
    name: str
    pathIndex: int
    modified: float
    created: float
    size: int


class ModelFolders(RootModel[list[ModelFolder]]):
    """Kinds of models, and where they are."""


class ModelFileList(RootModel[list[ModelFile]]):
    """The files of one kind."""


class SubgraphSource(Part):
    node_pack: str


class SubgraphInfo(Part):
    source: str
    name: str
    info: SubgraphSource
    data: str = ""
    """Only of a blueprint that is asked for alone."""


class Subgraphs(RootModel[dict[str, SubgraphInfo]]):
    """Blueprints by id."""


class SubgraphData(Part):
    source: str
    name: str
    info: SubgraphSource
    data: str
    """The blueprint's JSON, as a text."""


class RawLogEntry(Part):
    t: float
    """When, in milliseconds since the epoch. (The WebSocket's message `logs` has it in ISO format.)"""
    m: str


class LogSize(Part):
    cols: int
    rows: int


class RawLogs(Part):
    entries: list[RawLogEntry]
    size: LogSize
