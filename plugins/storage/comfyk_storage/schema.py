"""The table of jobs, and how its columns are read and written.

One row is one job, from the moment it is accepted until its history entry is dropped. While the job is
unfinished, `body` and `sensitive` hold what is needed to run it; when it ends they give way to `entry`, the
JSON that `/history` sends. The columns in between are what lists filter, sort and show.
"""

from __future__ import annotations

from typing import Any

from comfyk.jobs import (
    Job,
    JobStatus,
    JobSummary,
    Outcome,
    PackedJob,
    QueuedJob,
    duration,
    finished_summary,
    history_entry_json,
    pack,
    unpack,
)
from comfyk.wire import dumps_anything, loads_anything
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    String,
    Table,
    Text,
    case,
    func,
)

HEAD = "0002"
"""The newest revision in `migrations/versions`: what this module describes."""

metadata = MetaData()

RowId = BigInteger().with_variant(Integer(), "sqlite")

jobs = Table(
    "comfyk_jobs",
    metadata,
    Column("seq", RowId, primary_key=True, comment="age: the order in which jobs were added"),
    Column("id", Text, nullable=False, unique=True),
    Column("status", String(16), nullable=False),
    Column("number", Double, nullable=False),
    Column("user", Text, nullable=False),
    Column("workflow_id", Text),
    Column("attempts", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("finished_at", BigInteger),
    Column("duration", BigInteger, nullable=False),
    Column("outputs_count", Integer, nullable=False),
    Column("previewable_outputs_count", Integer, nullable=False),
    Column("preview_output", LargeBinary, comment="JSON"),
    Column("execution_error", LargeBinary, comment="JSON"),
    Column("history_seq", BigInteger, comment="the order in which jobs ended; null until then"),
    Column("body", LargeBinary, comment="JSON; null once ended"),
    Column("sensitive", LargeBinary, comment="JSON; null once ended"),
    Column("entry", LargeBinary, comment="JSON of the history entry; null until ended"),
    # These three are for the servers that share a PostgreSQL; elsewhere they stay null.
    Column("owner", Text, comment="the server that took the job last"),
    Column(
        "lease_until",
        DateTime(timezone=True),
        comment="by the clock of the database; null when nobody runs it",
    ),
    Column("cancel_requested", Boolean, comment="true: whoever runs it is to cancel it"),
)
Index("ix_comfyk_jobs_history", jobs.c.history_seq, unique=True)
# Each order in which jobs are listed has an index that also answers the filters, so that neither a page nor
# the count of all reads the wide rows.
Index("ix_comfyk_jobs_created", jobs.c.created_at, jobs.c.seq, jobs.c.status, jobs.c.user, jobs.c.workflow_id)
Index("ix_comfyk_jobs_duration", jobs.c.duration, jobs.c.seq, jobs.c.status, jobs.c.user, jobs.c.workflow_id)
Index("ix_comfyk_jobs_status", jobs.c.status, jobs.c.created_at, jobs.c.seq)

shared_metadata = MetaData()
"""What a PostgreSQL has beside `metadata`."""

history_count = Table(
    "comfyk_history_count",
    shared_metadata,
    Column("last_seq", BigInteger, nullable=False, comment="the last history_seq that was given"),
    Column("finished", BigInteger, nullable=False, comment="how many jobs of comfyk_jobs have ended"),
)
"""One row. Whoever adds to the history or takes from it locks it first, so that servers agree on both numbers."""

ENDED = jobs.c.history_seq.is_not(None)
UNENDED = jobs.c.status.in_([JobStatus.PENDING.value, JobStatus.IN_PROGRESS.value])
LINE_ORDER = (case((jobs.c.attempts > 0, 0), else_=1), jobs.c.number, jobs.c.seq)
"""How jobs wait: one that ran when a server ended comes first."""

SIZE = (func.length(jobs.c.body) + func.coalesce(func.length(jobs.c.sensitive), 0)).label("size")
"""Of what an unfinished job runs; neither kind of database reads it for that."""
QUEUED = (jobs.c.id, jobs.c.number, jobs.c.user, jobs.c.created_at, jobs.c.attempts, SIZE)
"""The columns of a QueuedJob, in the order of its fields."""

SUMMARY = (
    jobs.c.id,
    jobs.c.status,
    jobs.c.number,
    jobs.c.created_at,
    jobs.c.started_at,
    jobs.c.finished_at,
    jobs.c.execution_error,
    jobs.c.outputs_count,
    jobs.c.previewable_outputs_count,
    jobs.c.preview_output,
    jobs.c.workflow_id,
)
"""The columns of a JobSummary, in the order of its fields."""


def unfinished_row(job: Job, started_at: int | None) -> dict[str, Any]:
    """The row of a job that was just accepted, and that runs already if `started_at` is given.

    Raises StoreError when it has no JSON form.
    """
    packed = pack(job)
    status = JobStatus.PENDING if started_at is None else JobStatus.IN_PROGRESS
    return {
        "id": job.id,
        "status": status.value,
        "started_at": started_at,
        "number": job.number,
        "user": job.user,
        "workflow_id": job.workflow_id,
        "attempts": job.attempts,
        "created_at": job.created_at,
        "duration": 0,
        "outputs_count": 0,
        "previewable_outputs_count": 0,
        "body": packed.body,
        "sensitive": packed.sensitive,
    }


def finished_row(job: Job, outcome: Outcome) -> dict[str, Any]:
    """What changes in the row when the job ends, but for `history_seq`."""
    summary = finished_summary(job, outcome)
    return {
        "status": outcome.status.value,
        "number": job.number,
        "attempts": job.attempts,
        "started_at": outcome.started_at,
        "finished_at": outcome.finished_at,
        "duration": duration(summary),
        "outputs_count": summary.outputs_count,
        "previewable_outputs_count": summary.previewable_outputs_count,
        "preview_output": _json_or_none(summary.preview_output),
        "execution_error": _json_or_none(summary.execution_error),
        "body": None,
        "sensitive": None,
        "entry": history_entry_json(job, outcome),
    }


def read_queued(row: Row[*tuple[Any, ...]]) -> QueuedJob:
    """What is known of an unfinished job, from a row that has the columns of `QUEUED`."""
    return QueuedJob(row.id, _number(row.number), row.user, row.created_at, row.attempts, row.size or 0)


def read_job(row: Row[*tuple[Any, ...]], *, sensitive: bool) -> Job:
    """The job of an unfinished row that has the columns of `QUEUED`, `body` and `sensitive`.

    Its sensitive data is there only where it is to be run. Raises UnreadableJobError.
    """
    return unpack(read_queued(row), PackedJob(row.body, row.sensitive if sensitive else None))


def read_summary(row: Row[*tuple[Any, ...]]) -> JobSummary:
    """The jobs list's line from a row that starts with the columns of `SUMMARY`."""
    job_id, status, number, created, started, finished, error, count, previewable, preview, workflow_id = row[
        :11
    ]
    return JobSummary(
        id=job_id,
        status=JobStatus(status),
        priority=_number(number),
        create_time=created,
        execution_start_time=started,
        execution_end_time=finished,
        execution_error=loads_anything(error) if error is not None else None,
        outputs_count=count,
        previewable_outputs_count=previewable,
        preview_output=loads_anything(preview) if preview is not None else None,
        workflow_id=workflow_id,
    )


def _json_or_none(value: Any) -> bytes | None:
    return None if value is None else dumps_anything(value)


def _number(number: float) -> float:
    """Whole numbers are counted as ints, so that clients see `3` before and after a restart."""
    return int(number) if number.is_integer() else number
