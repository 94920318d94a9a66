"""Typed events and the bus that carries them.

Events come from any thread (nodes run in the executor's); listeners run on the app's event loop, in order.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from comfyk.foreign_code import is_ours

__all__ = [
    "Event",
    "EventBus",
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

log = logging.getLogger(__name__)


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


Listener = Callable[[Event], None]


class EventBus:
    """Carries events from any thread to listeners on the loop.

    A burst of events wakes the loop once. A listener that raises is logged and the others still hear.
    """

    def __init__(self) -> None:
        self._listeners: list[tuple[Listener, tuple[type[Event], ...]]] = []
        self._listeners_of: dict[type[Event], tuple[Listener, ...]] = {}
        """Who hears events of just this type; made when one comes."""
        self._waiting: deque[Event | Callable[[], None]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._scheduled = False
        self._uncork: asyncio.TimerHandle | None = None

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver on this loop, which runs in the calling thread, from now on."""
        self._loop = loop
        self._thread = threading.get_ident()

    def subscribe(self, listener: Listener, *types: type[Event]) -> Callable[[], None]:
        """Call `listener` with each event (of these types), on the loop; it must not block. Returns what ends it."""
        entry = (listener, types or (Event,))
        self._listeners.append(entry)
        self._listeners_of.clear()

        def unsubscribe() -> None:
            self._listeners.remove(entry)
            self._listeners_of.clear()

        return unsubscribe

    def emit(self, event: Event) -> None:
        """Hand an event over, from any thread. Without a loop (yet) it waits for one."""
        self._waiting.append(event)
        self._wake()

    def call(self, function: Callable[[], None]) -> None:
        """Call a function on the loop, after the events that were emitted before."""
        self._waiting.append(function)
        self._wake()

    def _wake(self) -> None:
        if self._scheduled or self._uncork is not None or self._loop is None:
            return
        self._scheduled = True
        try:
            if threading.get_ident() == self._thread:
                self._loop.call_soon(self.deliver)
            else:
                self._loop.call_soon_threadsafe(self.deliver)
        except RuntimeError:  # the loop is closed: nobody listens any more
            self._scheduled = False

    def cork(self, seconds: float) -> None:
        """Let events gather for a moment, or until `uncork`. Call it on the loop.

        What another thread does in that moment then costs the loop no wakeup: the two would only take turns at
        the interpreter.
        """
        if self._loop is not None and self._uncork is None:
            self._uncork = self._loop.call_later(seconds, self.uncork)

    def uncork(self) -> None:
        """Deliver what has gathered. Call it on the loop."""
        if self._uncork is not None:
            self._uncork.cancel()
            self._uncork = None
        self.deliver()

    def deliver(self) -> None:
        """Hand all waiting events to the listeners now. Call it on the loop only."""
        self._scheduled = False
        while self._waiting:
            event = self._waiting.popleft()
            if not isinstance(event, Event):
                try:
                    event()
                except BaseException as error:
                    if is_ours(error):
                        raise
                    log.exception("a function failed that was to be called on the loop")
                continue
            listeners = self._listeners_of.get(type(event))
            if listeners is None:
                listeners = tuple(listener for listener, types in self._listeners if isinstance(event, types))
                self._listeners_of[type(event)] = listeners
            for listener in listeners:
                try:
                    listener(event)
                except BaseException as error:  # of a plugin, perhaps: it would end the loop
                    if is_ours(error):
                        raise
                    log.exception("a listener failed on the event %r", event.type)
