"""Rows of the table that cannot be read: they are set aside, so that all others are of use.

They go into the history as jobs that failed, which says why, and keep their `body`, which other jobs lose when they
end: by that `comfyk doctor` finds them.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from typing import Any

from comfyk.events import now_ms
from comfyk.jobs import Job, JobStatus, Outcome, QueuedJob
from sqlalchemy import Connection, func, select, update
from sqlalchemy.exc import DBAPIError

from comfyk_storage.schema import finished_row, jobs

log = logging.getLogger(__name__)

_FARTHEST = 1e15
"""The largest number of a job."""
_STATUSES = (JobStatus.PENDING.value, JobStatus.IN_PROGRESS.value)
_TEXTS = ("id", "user", "status", "workflow_id")
_NUMBERS = ("number", "attempts", "created_at", "started_at")
_LOOK = "SELECT {} FROM comfyk_jobs WHERE history_seq IS NULL".format(  # noqa: S608
    ", ".join(
        [
            "seq, typeof(body) AS body_kind",
            *(f'CAST("{name}" AS BLOB) AS "{name}"' for name in _TEXTS),
            *(
                f"CASE WHEN typeof({name}) IN ('integer', 'real') THEN {name} END AS {name}"
                for name in _NUMBERS
            ),
            *(f"typeof({name}) AS {name}_kind" for name in _NUMBERS),
        ]
    )
)
"""Columns of SQLite hold whatever was put there: nothing is read as what it should be."""
SET_ASIDE = "SELECT id FROM comfyk_jobs WHERE history_seq IS NOT NULL AND body IS NOT NULL LIMIT 100"
"""The ids of those that were set aside, for `comfyk doctor`."""


def why_unreadable(error: BaseException) -> str | None:
    """What keeps one row from being read, in words; None when it is the database as a whole."""
    if isinstance(error, MemoryError):
        return "there is not enough memory for it"
    cause = error.orig if isinstance(error, DBAPIError) else error
    name = getattr(cause, "sqlite_errorname", "") or ""
    if isinstance(cause, sqlite3.Error) and (name.startswith("SQLITE_CORRUPT") or "decode" in str(cause)):
        return f"the database is damaged there ({cause})"
    if isinstance(cause, TypeError | ValueError):  # a value of a kind that the column is not for
        return f"what is stored of it is no job ({cause})"
    return None


def set_aside_row(job: QueuedJob, outcome: Outcome) -> dict[str, Any]:
    """What changes in the row of a job that cannot be read, but for `history_seq`."""
    unread = Job(
        job.id,
        job.number,
        {},
        {"create_time": job.created_at},
        [],
        user=job.user,
        created_at=job.created_at,
        attempts=job.attempts,
    )
    row = finished_row(unread, outcome)
    del row["body"]
    return row


def set_aside_damaged(connection: Connection, place: str) -> None:
    """Set aside what keeps the queue from being read, in a SQLite file, whose columns hold whatever was put there."""
    ended = connection.scalar(select(func.max(jobs.c.history_seq))) or 0
    for seq, columns, why in list(_damaged(connection)):
        job = _sound(seq, columns)
        at = now_ms()
        message = f"What is stored of this job cannot be read, so it was not run: {why}. Queue it anew."
        told = {
            "prompt_id": job.id,
            "timestamp": at,
            "exception_message": message,
            "exception_type": "UnreadableJob",
            "node_id": None,
            "node_type": None,
        }
        outcome = Outcome(JobStatus.FAILED, None, at, messages=[("execution_error", told)])
        ended += 1
        row = set_aside_row(job, outcome)
        row |= {"id": job.id, "user": job.user, "created_at": job.created_at, "workflow_id": None}
        row |= {"history_seq": ended, "body": func.coalesce(jobs.c.body, b"")}
        connection.execute(update(jobs).where(jobs.c.seq == seq).values(**row))
        log.error("%s: job %s was set aside, as failed, because %s", place, job.id, why)


def _damaged(connection: Connection) -> Iterator[tuple[int, dict[str, Any], str]]:
    """Of each row that is no job in the queue: its number, what it has, and what is wrong with it."""
    for row in connection.exec_driver_sql(_LOOK):
        columns = dict(row._mapping)
        if (why := _wrong(columns)) is not None:
            yield row.seq, columns, why


def _wrong(columns: dict[str, Any]) -> str | None:
    """Makes texts of those that are texts."""
    for name in _TEXTS:
        value = columns[name]
        try:
            columns[name] = None if value is None else value.decode()
        except UnicodeDecodeError:
            return f"its {name} is no text"
        if value is None and name != "workflow_id":
            return f"it has no {name}"
    for name in _NUMBERS:
        if columns[name] is None and columns[f"{name}_kind"] != "null":
            return f"its {name} is no number"
        if columns[name] is None and name != "started_at":
            return f"it has no {name}"
    if abs(columns["number"]) > _FARTHEST:
        return "its number is too large"
    if columns["status"] not in _STATUSES:
        return f"its status is {columns['status']!r:.40}"
    return None if columns["body_kind"] == "blob" else "what it runs is not there"


def _sound(seq: int, columns: dict[str, Any]) -> QueuedJob:
    """As much of the row as can be shown."""
    job_id, user = columns["id"], columns["user"]
    number, created, attempts = (columns[name] for name in ("number", "created_at", "attempts"))
    return QueuedJob(
        job_id if isinstance(job_id, str) and job_id else f"unreadable-{seq}",
        number if isinstance(number, int | float) and abs(number) <= _FARTHEST else 0,
        user if isinstance(user, str) else "default",
        created if isinstance(created, int) else now_ms(),
        attempts if isinstance(attempts, int) else 0,
        0,
    )
