"""What a job is: a prompt that was accepted, its place in the queue, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple


class JobStatus(StrEnum):
    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        return self in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)


class PackedJob(NamedTuple):
    """What a job runs, as bytes: a tenth or less of what it is in memory once read."""

    body: bytes
    """JSON: `[prompt, extra data, targets]`."""
    sensitive: bytes | None
    """JSON; None when there is nothing of the kind."""

    @property
    def size(self) -> int:
        return len(self.body) + len(self.sensitive or b"")


@dataclass(slots=True)
class Job:
    """A prompt in the queue. Never changed once stored, but for `number` and `attempts`."""

    id: str
    number: float
    """Its place: the lowest number runs first, equal numbers in the order they came."""
    prompt: dict[str, Any]
    """Node id -> `{"class_type": ..., "inputs": {...}}`, as validated."""
    extra_data: dict[str, Any]
    """What the client sent along: `client_id`, `extra_pnginfo`, `create_time` (ms) ..."""
    targets: list[str]
    """The output nodes to execute."""
    sensitive: dict[str, Any] = field(default_factory=dict)
    """Tokens for the nodes that ask for them; kept only until the job ends, never shown."""
    user: str = "default"
    created_at: int = 0
    """Milliseconds since the epoch."""
    attempts: int = 0
    """How often it was started; more than one after a crash."""
    packed: PackedJob | None = field(default=None, init=False, repr=False, compare=False)
    """While the job is put into the queue: what `pack` makes of it."""

    @property
    def client_id(self) -> str | None:
        return self.extra_data.get("client_id")

    @property
    def workflow_id(self) -> str | None:
        """The id in the workflow that the client sent along, if that is well formed."""
        found: Any = self.extra_data
        for key in ("extra_pnginfo", "workflow", "id"):
            found = found.get(key) if isinstance(found, dict) else None
        return found if isinstance(found, str) else None

    def queue_item(self) -> list[Any]:
        """The five fields that `/queue` and `/history` show: number, id, prompt, extra data, targets."""
        return [self.number, self.id, self.prompt, self.extra_data, self.targets]


@dataclass(slots=True)
class QueuedJob:
    """What is known of a job in the queue without reading it: the rest lies in the store until its turn comes."""

    id: str
    number: float
    user: str
    created_at: int
    attempts: int
    size: int
    """Bytes of what it runs, in the store; 0 of one that runs."""
    client_id: str | None = None
    """None also when it came in before this server started, or at another one."""


@dataclass(slots=True)
class Outcome:
    """How a job ended. The last of its messages says so: `execution_success`, `execution_interrupted` or
    `execution_error`; where an executor leaves it out, the queue adds one.
    """

    status: JobStatus
    started_at: int | None
    """Milliseconds since the epoch; None when it was cancelled before it ran."""
    finished_at: int
    outputs: dict[str, Any] = field(default_factory=dict)
    """Node id -> its ui output, such as `{"images": [{"filename", "subfolder", "type"}]}`."""
    meta: dict[str, Any] = field(default_factory=dict)
    """Node id -> `{"node_id", "display_node", "parent_node", "real_node_id"}`."""
    messages: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """The execution messages in order: `(type, data)`, data with a `timestamp` in milliseconds."""

    @property
    def error(self) -> dict[str, Any] | None:
        """The data of the `execution_error` message, if there is one."""
        return next((data for kind, data in reversed(self.messages) if kind == "execution_error"), None)
