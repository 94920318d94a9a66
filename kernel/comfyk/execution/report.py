"""What a running job tells: events to clients as it goes, and the outcome that goes into the history."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from comfyk.events import (
    Event,
    Executed,
    Executing,
    ExecutionCached,
    ExecutionError,
    ExecutionInterrupted,
    ExecutionStart,
    ExecutionSuccess,
    JobMessage,
    now_ms,
)
from comfyk.execution.progress import JobProgress
from comfyk.foreign_code import text_of
from comfyk.graph.dynamic import DynamicPrompt
from comfyk.jobs.model import Job, JobStatus, Outcome

log = logging.getLogger(__name__)

_VALUE_SHOWN = 2000
_MESSAGE_SHOWN = 20_000
_KERNEL = f"{Path(__file__).parents[1]}{os.sep}"


class Report:
    """The messages of one job. The last one is in the outcome only: the queue tells it when that is stored."""

    def __init__(
        self, job: Job, prompt: DynamicPrompt, progress: JobProgress, tell: Callable[[Event], None]
    ) -> None:
        self.progress = progress
        self.outcome = Outcome(JobStatus.COMPLETED, now_ms(), 0)
        self.executed: dict[str, None] = {}
        """The nodes that ran, in order."""
        self._job = job
        self._prompt = prompt
        self._tell = tell
        self._to: dict[str, Any] = {"client_id": job.client_id, "job_id": job.id}

    def started(self) -> None:
        self._record(ExecutionStart(**self._to))

    def cached(self, nodes: list[str]) -> None:
        self._record(ExecutionCached(nodes=nodes, **self._to))

    def begins(self, node_id: str) -> None:
        """A node begins to run."""
        self.progress.start(node_id)
        display = self._prompt.get_display_node_id(node_id)
        self._tell(Executing(node=node_id, display_node=display, **self._to))

    def done(self, node_id: str, *, was_cached: bool = False) -> None:
        self.progress.finish(node_id)
        if not was_cached:
            self.executed[node_id] = None

    def show(self, node_id: str, ui: Mapping[str, Any] | None) -> None:
        """Send what a node has to show, and keep it for the history."""
        display = self._prompt.get_display_node_id(node_id)
        output = dict(ui) if ui is not None else None
        if output is not None:
            self.outcome.outputs[node_id] = output
            self.outcome.meta[node_id] = {
                "node_id": node_id,
                "display_node": display,
                "parent_node": self._prompt.get_parent_node_id(node_id),
                "real_node_id": self._prompt.get_real_node_id(node_id),
            }
        self._tell(Executed(node=node_id, display_node=display, output=output, **self._to))

    def has_shown(self, node_id: str) -> bool:
        return node_id in self.outcome.outputs

    def blocked(self, node_id: str, message: str) -> None:
        """A blocker with a message reached a node: say so; the job goes on."""
        real, node_type = self._real(node_id)
        self._tell(
            ExecutionError(
                node_id=real,
                node_type=node_type,
                executed=list(self.executed),
                exception_message=f"Execution Blocked: {message}",
                exception_type="ExecutionBlocked",
                **self._to,
            )
        )

    def succeeded(self) -> None:
        self._end(JobStatus.COMPLETED, ExecutionSuccess(**self._to))

    def interrupted(self, node_id: str | None) -> None:
        real, node_type = self._real(node_id)
        executed = list(self.executed)
        self._end(
            JobStatus.CANCELLED,
            ExecutionInterrupted(node_id=real, node_type=node_type, executed=executed, **self._to),
        )

    def failed(
        self,
        node_id: str | None,
        error: BaseException,
        *,
        inputs: Mapping[str, Sequence[Any]] | None = None,
        advice: Sequence[str] = (),
        results: Sequence[str] = (),
    ) -> None:
        """The job failed, at a node if one is named; `inputs` are those of the node."""
        real, node_type = self._real(node_id)
        message = text_of(error)
        if len(message) <= _MESSAGE_SHOWN:
            log.error("job %s failed at node %s (%s)", self._job.id, real, node_type, exc_info=error)
        else:
            said = f"{type(error).__name__}: {message[:_MESSAGE_SHOWN]}..."
            log.error("job %s failed at node %s (%s): %s", self._job.id, real, node_type, said)
        if node_id is not None:
            self.progress.finish(node_id, "error")
        self._end(
            JobStatus.FAILED,
            ExecutionError(
                node_id=real,
                node_type=node_type,
                executed=list(self.executed),
                exception_message="\n".join([message[:_MESSAGE_SHOWN] or type(error).__name__, *advice]),
                exception_type=_type_name(type(error)),
                traceback=traceback.format_tb(_beyond_the_kernel(error.__traceback__)),
                current_inputs={
                    name: [_brief(value) for value in values] for name, values in (inputs or {}).items()
                },
                current_outputs=list(results),
                **self._to,
            ),
        )

    def _real(self, node_id: str | None) -> tuple[str | None, str | None]:
        """The node of the client's prompt behind a node, and its class."""
        if node_id is None:
            return None, None
        real = self._prompt.get_real_node_id(node_id)
        return real, self._prompt.get_node(real)["class_type"]

    def _record(self, message: JobMessage) -> None:
        self.outcome.messages.append((message.type, message.data()))
        self._tell(message)

    def _end(self, status: JobStatus, message: JobMessage) -> None:
        self.outcome.status = status
        self.outcome.finished_at = message.timestamp
        self.outcome.messages.append((message.type, message.data()))


def _beyond_the_kernel(frames: TracebackType | None) -> TracebackType | None:
    """The part of a traceback that begins with the node's own code; all of it when there is none."""
    found = frames
    while found is not None and found.tb_frame.f_code.co_filename.startswith(_KERNEL):
        found = found.tb_next
    return found or frames


def _type_name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _brief(value: Any) -> Any:
    """A value as an error message shows it."""
    if value is None or isinstance(value, (float, bool)) or (type(value) is int and abs(value) < 2**64):
        return value
    return text_of(value)[:_VALUE_SHOWN]
