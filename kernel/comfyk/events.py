"""What is told: typed events. `comfyk.event_bus` carries them from any thread to listeners on the app's loop."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

__all__ = [
    "Event",
    "Executed",
    "Executing",
    "ExecutionCached",
    "ExecutionError",
    "ExecutionInterrupted",
    "ExecutionStart",
    "ExecutionSuccess",
    "HistoryDeleted",
    "JobEnded",
    "JobEvent",
    "JobMessage",
    "JobQueued",
    "Message",
    "NodeProgress",
    "Preview",
    "PreviewImage",
    "Progress",
    "ProgressState",
    "ProgressText",
    "QueueChanged",
    "SettingsChanged",
    "now_ms",
]


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


@dataclass(slots=True, kw_only=True)
class Event:
    """Something that happened. `client_id` is the client whose job it is about; None: of interest to all."""

    type: ClassVar[str] = ""
    client_id: str | None = None

    def data(self) -> dict[str, Any]:
        """The `data` of the WebSocket message `{"type": ..., "data": ...}`."""
        return {}


@dataclass(slots=True, kw_only=True)
class QueueChanged(Event):
    """A job was added, started, finished, moved or removed."""

    type: ClassVar[str] = "status"
    queue_remaining: int
    """Pending and running jobs."""

    def data(self) -> dict[str, Any]:
        return {"status": {"exec_info": {"queue_remaining": self.queue_remaining}}}


@dataclass(slots=True, kw_only=True)
class JobEvent(Event):
    """An event of one job. The queue sees to it that it names the job's client and user."""

    job_id: str
    user: str = "default"
    """Whose job it is."""

    def data(self) -> dict[str, Any]:
        return {"prompt_id": self.job_id}


@dataclass(slots=True, kw_only=True)
class JobQueued(JobEvent):
    """A prompt was accepted. Not told to clients."""


@dataclass(slots=True, kw_only=True)
class JobEnded(JobEvent):
    """A job has ended in whatever way, also one that never ran. It is in the history, unless it was taken out of the
    line while it waited: then it is stored nowhere. Clients know; this is not told to them."""

    status: str
    """A `JobStatus`: `completed`, `failed` or `cancelled`."""
    seconds: float | None = None
    """How long it ran; None when it did not."""


@dataclass(slots=True, kw_only=True)
class HistoryDeleted(Event):
    """Jobs that had ended were deleted from the history. Not told to clients."""

    ids: list[str] | None
    """None: all, of one user if `user` is given."""
    user: str | None = None


@dataclass(slots=True, kw_only=True)
class SettingsChanged(Event):
    """A setting was given another value (`app.settings.change`). Not told to clients."""

    key: str
    """`section.field`."""


@dataclass(slots=True, kw_only=True)
class Message(Event):
    """A message of any type to one client (`client_id`) or to all: for plugins."""

    message_type: str
    content: Any = None
    """JSON, the message's `data`; `bytes` are sent as a binary message, as they are."""

    def data(self) -> Any:
        return self.content


@dataclass(slots=True, kw_only=True)
class JobMessage(JobEvent):
    """A message of a job that also goes into its history, with the time it happened."""

    timestamp: int = field(default_factory=now_ms)

    def data(self) -> dict[str, Any]:
        return {"prompt_id": self.job_id, "timestamp": self.timestamp}


@dataclass(slots=True, kw_only=True)
class ExecutionStart(JobMessage):
    type: ClassVar[str] = "execution_start"


@dataclass(slots=True, kw_only=True)
class ExecutionCached(JobMessage):
    """Which nodes of the prompt need not run, because their results are kept from before."""

    type: ClassVar[str] = "execution_cached"
    nodes: list[str]

    def data(self) -> dict[str, Any]:
        return {"nodes": self.nodes, "prompt_id": self.job_id, "timestamp": self.timestamp}


@dataclass(slots=True, kw_only=True)
class ExecutionSuccess(JobMessage):
    """The job ended well; it is in the history before this is sent."""

    type: ClassVar[str] = "execution_success"


@dataclass(slots=True, kw_only=True)
class ExecutionInterrupted(JobMessage):
    type: ClassVar[str] = "execution_interrupted"
    node_id: str | None
    node_type: str | None
    executed: list[str] = field(default_factory=list)

    def data(self) -> dict[str, Any]:
        return {
            "prompt_id": self.job_id,
            "node_id": self.node_id,
            "node_type": self.node_type,
            "executed": self.executed,
            "timestamp": self.timestamp,
        }


@dataclass(slots=True, kw_only=True)
class ExecutionError(JobMessage):
    """A node failed, and the job with it."""

    type: ClassVar[str] = "execution_error"
    node_id: str | None
    node_type: str | None
    exception_message: str
    exception_type: str
    traceback: list[str] = field(default_factory=list)
    executed: list[str] = field(default_factory=list)
    current_inputs: dict[str, Any] | list[Any] = field(default_factory=dict)
    current_outputs: list[str] = field(default_factory=list)

    def data(self) -> dict[str, Any]:
        return {
            "prompt_id": self.job_id,
            "node_id": self.node_id,
            "node_type": self.node_type,
            "executed": self.executed,
            "exception_message": self.exception_message,
            "exception_type": self.exception_type,
            "traceback": self.traceback,
            "current_inputs": self.current_inputs,
            "current_outputs": self.current_outputs,
            "timestamp": self.timestamp,
        }


@dataclass(slots=True, kw_only=True)
class Executing(JobEvent):
    """A node begins; `node` is None when the job has ended."""

    type: ClassVar[str] = "executing"
    node: str | None
    display_node: str | None = None

    def data(self) -> dict[str, Any]:
        if self.node is None:
            return {"node": None, "prompt_id": self.job_id}
        return {"node": self.node, "display_node": self.display_node, "prompt_id": self.job_id}


@dataclass(slots=True, kw_only=True)
class Executed(JobEvent):
    """A node with something to show has run (or its kept result is shown again)."""

    type: ClassVar[str] = "executed"
    node: str
    display_node: str
    output: dict[str, Any] | None

    def data(self) -> dict[str, Any]:
        return {
            "node": self.node,
            "display_node": self.display_node,
            "output": self.output,
            "prompt_id": self.job_id,
        }


@dataclass(slots=True, kw_only=True)
class Progress(JobEvent):
    """How far one node is."""

    type: ClassVar[str] = "progress"
    node: str
    value: float
    max: float

    def data(self) -> dict[str, Any]:
        return {"value": self.value, "max": self.max, "prompt_id": self.job_id, "node": self.node}


@dataclass(slots=True, kw_only=True)
class NodeProgress:
    """The state of one node in a `progress_state` message."""

    node_id: str
    display_node_id: str
    parent_node_id: str | None
    real_node_id: str
    state: str
    """`running`, `finished` or `error`."""
    value: float = 0
    max: float = 1


@dataclass(slots=True, kw_only=True)
class ProgressState(JobEvent):
    """The state of every node that has begun."""

    type: ClassVar[str] = "progress_state"
    nodes: dict[str, NodeProgress]

    def data(self) -> dict[str, Any]:
        return {
            "prompt_id": self.job_id,
            "nodes": {
                node_id: {
                    "value": node.value,
                    "max": node.max,
                    "state": node.state,
                    "node_id": node_id,
                    "prompt_id": self.job_id,
                    "display_node_id": node.display_node_id,
                    "parent_node_id": node.parent_node_id,
                    "real_node_id": node.real_node_id,
                }
                for node_id, node in self.nodes.items()
            },
        }


@dataclass(frozen=True, slots=True)
class PreviewImage:
    """An encoded picture of work under way."""

    data: bytes
    format: str
    """`JPEG` or `PNG`."""
    is_result: bool = False
    """It is no sketch of what is to come but a result: each is sent, also to a client that has fallen behind."""


@dataclass(slots=True, kw_only=True)
class Preview(JobEvent):
    """A picture of work under way, from one node. Sent as a binary message."""

    type: ClassVar[str] = "preview"
    image: PreviewImage
    node: NodeProgress


@dataclass(slots=True, kw_only=True)
class ProgressText(JobEvent):
    """A line of text to show on a node. Sent as a binary message."""

    type: ClassVar[str] = "progress_text"
    node: str
    text: str
