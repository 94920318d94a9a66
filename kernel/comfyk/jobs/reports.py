"""What the executor reports of a job while it runs, on its way to the clients and to the history."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from comfyk.event_bus import EventBus
from comfyk.events import (
    Event,
    Executed,
    Executing,
    ExecutionInterrupted,
    ExecutionSuccess,
    JobEnded,
    JobEvent,
    JobQueued,
)
from comfyk.hooks import BoundHooks
from comfyk.jobs.model import Job

log = logging.getLogger(__name__)

_OF_THE_QUEUE = (JobQueued, ExecutionSuccess, ExecutionInterrupted, JobEnded)


@dataclass(slots=True, eq=False)
class Running:
    """A job on its way from the line to the history."""

    job: Job
    begun: bool
    """Whether its attempt is counted and stored."""
    told: dict[str, dict[str, Any]]
    """What its nodes have shown, as the plugins left it."""
    task: asyncio.Task[None] | None = None
    executing: bool = False
    showing: str | None = None
    """The node that clients see as running."""
    cancelled: bool = False
    lost: bool = False
    """Another server has taken it over."""
    waiting: asyncio.Future[Any] | None = None
    """What it waits for before it starts."""
    after: asyncio.Task[None] | None = None
    """An earlier run of the same job, whose lease was lost: it must be over."""


class Reports:
    """Hands on what executors report."""

    def __init__(self, events: EventBus, hook: BoundHooks) -> None:
        self._events = events
        self._hook = hook
        self._watches_outputs = hook.implements("comfyk_node_output")

    def of(self, running: Running) -> Callable[[Event], None]:
        """What a job's executor reports to, while it runs the job.

        Raises ValueError for an event of another job, and for one that says how the job ended: clients would believe
        it, though nothing is stored yet. What comes after the end is dropped.
        """
        job, emit = running.job, self._events.emit

        def tell(event: Event) -> None:
            if not running.executing:
                log.debug("job %s has ended: its %r event is dropped", job.id, event.type)
                return
            event.client_id = job.client_id
            if isinstance(event, JobEvent):
                _check(event, job)
                event.user = job.user
                if isinstance(event, Executing):
                    running.showing = event.display_node
                elif self._watches_outputs and isinstance(event, Executed) and event.output is not None:
                    event.output = _copy(event.output)  # what is cached stays as it is
                    self._hook.comfyk_node_output(job=job, node_id=event.node, output=event.output)
                    running.told[event.node] = event.output
            emit(event)

        return tell


def _check(event: JobEvent, job: Job) -> None:
    if event.job_id != job.id:
        raise ValueError(
            f"the executor of job {job.id} reported {event.type!r} of another, {event.job_id!r:.60}"
        )
    if isinstance(event, _OF_THE_QUEUE) or (isinstance(event, Executing) and event.node is None):
        name = type(event).__name__
        raise ValueError(
            f"the executor reported {name}: how a job ended is told by the queue, from its Outcome"
        )


def _copy(output: dict[str, Any]) -> dict[str, Any]:
    """What a node shows, so far as plugins add to it: the lists, and the entries in them."""
    return {
        name: [dict(item) if type(item) is dict else item for item in items] if type(items) is list else items
        for name, items in output.items()
    }
