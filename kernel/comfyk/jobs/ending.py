"""How a job ended, as an event: made from its outcome, whichever executor it is from."""

from __future__ import annotations

from typing import Any

from comfyk.events import ExecutionError, ExecutionInterrupted, ExecutionSuccess, JobMessage
from comfyk.jobs.model import Job, JobStatus, Outcome

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


def ending_of(job: Job, outcome: Outcome) -> JobMessage:
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


def failure(job: Job, message: str, kind: str, at: int) -> Outcome:
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
