"""How a job ended: the event that says so, made from its outcome, and those who hear of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from comfyk.event_bus import EventBus
from comfyk.events import (
    Executing,
    ExecutionError,
    ExecutionInterrupted,
    ExecutionSuccess,
    JobEnded,
    JobMessage,
    now_ms,
)
from comfyk.jobs.model import Job, JobStatus, Outcome, QueuedJob

_KINDS: dict[JobStatus, type[JobMessage]] = {
    JobStatus.COMPLETED: ExecutionSuccess,
    JobStatus.CANCELLED: ExecutionInterrupted,
    JobStatus.FAILED: ExecutionError,
}
_DEFAULTS: dict[type[JobMessage], dict[str, Any]] = {
    ExecutionSuccess: {},
    ExecutionInterrupted: {"node_id": None, "node_type": None},
    ExecutionError: {
        "node_id": None,
        "node_type": None,
        "exception_message": "The job failed, and its executor did not say why.",
        "exception_type": "UnknownError",
    },
}


def ending_of(job: Job | QueuedJob, outcome: Outcome) -> JobMessage:
    """The event that says how the job ended. An outcome without that message gets it."""
    kind = _KINDS[outcome.status]
    told = next((data for type, data in reversed(outcome.messages) if type == kind.type), None)
    if told is None:
        event = kind(job_id=job.id, client_id=job.client_id, user=job.user, **_DEFAULTS[kind])
        event.timestamp = outcome.finished_at or event.timestamp
        outcome.messages.append((event.type, event.data()))
        return event
    known = {name: value for name, value in told.items() if name in kind.__dataclass_fields__}
    return kind(
        **{**_DEFAULTS[kind], **known, "job_id": job.id, "client_id": job.client_id, "user": job.user}
    )


def failure(job: Job | QueuedJob, message: str, kind: str, at: int) -> Outcome:
    """The outcome of a job that fails outside of its nodes; `at` is when, in ms since the epoch."""
    error = ExecutionError(
        job_id=job.id,
        node_id=None,
        node_type=None,
        exception_message=message,
        exception_type=kind,
        timestamp=at,
    )
    return Outcome(JobStatus.FAILED, None, at, messages=[(error.type, error.data())])


def crashed(job: Job | QueuedJob, why: str = "") -> Outcome:
    """How a job ends that took the process down, or its executor (which says why), each time it ran."""
    message = (
        f"The server process ended {job.attempts} times while this job ran, so it is not run again. "
        "Look into the log for a crash or for want of memory, then queue it anew."
    )
    if why:
        message = (
            f"What ran this job died {job.attempts} times, so it is not run again. The last time: {why} "
            "Look into the log for a crash or for want of memory, then queue it anew."
        )
    return failure(job, message, "JobCrashed", now_ms())


class Endings:
    """Tells that jobs have ended, once that is stored: by events, and to those who await one."""

    def __init__(self, events: EventBus) -> None:
        self._events = events
        self._awaiting: dict[str, list[asyncio.Future[Outcome]]] = {}

    @property
    def awaited(self) -> list[str]:
        """The ids of jobs whose end somebody awaits."""
        return list(self._awaiting)

    def expect(self, job_id: str) -> asyncio.Future[Outcome]:
        """Done when the job has ended."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._awaiting.setdefault(job_id, []).append(future)
        return future

    def expect_no_more(self, job_id: str, future: asyncio.Future[Outcome]) -> None:
        futures = self._awaiting.get(job_id, [])
        if future in futures:
            futures.remove(future)
        if not futures:
            self._awaiting.pop(job_id, None)

    def tell_clients(self, event: JobMessage, tell_number: Callable[[], None]) -> None:
        """What clients hear of a job that has run: how it ended, how many are left, and that it is over."""
        self._events.emit(event)
        tell_number()
        self._events.emit(
            Executing(client_id=event.client_id, job_id=event.job_id, user=event.user, node=None)
        )
        self._events.uncork()

    def tell(self, job: Job | QueuedJob, outcome: Outcome) -> None:
        """What all others hear."""
        ran = outcome.finished_at - outcome.started_at if outcome.started_at is not None else None
        self._events.emit(
            JobEnded(
                job_id=job.id,
                client_id=job.client_id,
                user=job.user,
                status=outcome.status.value,
                seconds=None if ran is None else ran / 1000,
            )
        )
        self.tell_awaiting(job.id, outcome)

    def tell_awaiting(self, job_id: str, outcome: Outcome) -> None:
        for future in self._awaiting.pop(job_id, ()):
            if not future.done():
                future.set_result(outcome)

    def cancel(self) -> None:
        """Nobody will hear any more."""
        for futures in self._awaiting.values():
            for future in futures:
                future.cancel()
