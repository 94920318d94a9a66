"""How jobs look from outside, whichever store keeps them: history entries, lines of the list, details.

A finished job is kept as the JSON of its history entry, which is what clients ask for most; the rest of what
is known of it is read back from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from comfyk.jobs.model import Job, JobStatus, Outcome, QueuedJob
from comfyk.jobs.outputs import summarize_outputs
from comfyk.jobs.store import JobDetail, JobSummary
from comfyk.wire import dumps_anything, loads_anything


def history_entry_json(job: Job, outcome: Outcome) -> bytes:
    """The value that `/history` shows under the job's id: `prompt`, `outputs`, `status` and `meta`.

    Beside what ComfyUI has: `status_code` (100 is success) and `timestamp` (seconds), as other servers of this API.
    """
    completed = outcome.status is JobStatus.COMPLETED
    return dumps_anything(
        {
            "prompt": job.queue_item(),
            "outputs": outcome.outputs,
            "status": {
                "status_str": "success" if completed else "error",
                "completed": completed,
                "messages": outcome.messages,
                "status_code": 100 if completed else 0,
            },
            "meta": outcome.meta,
            "timestamp": outcome.finished_at / 1000,
        }
    )


def unfinished_summary(
    job: QueuedJob, workflow_id: str | None, status: JobStatus, started_at: int | None
) -> JobSummary:
    """The line of a pending or running job."""
    return JobSummary(
        id=job.id,
        status=status,
        priority=job.number,
        create_time=job.created_at,
        execution_start_time=started_at,
        outputs_count=0,
        previewable_outputs_count=0,
        workflow_id=workflow_id,
    )


def finished_summary(job: Job, outcome: Outcome) -> JobSummary:
    """The line of a job that has ended."""
    outputs = summarize_outputs(outcome.outputs)
    return JobSummary(
        id=job.id,
        status=outcome.status,
        priority=job.number,
        create_time=job.created_at,
        execution_start_time=outcome.started_at,
        execution_end_time=outcome.finished_at,
        execution_error=outcome.error,
        outputs_count=outputs.count,
        previewable_outputs_count=outputs.previewable,
        preview_output=outputs.preview,
        workflow_id=job.workflow_id,
    )


def duration(summary: JobSummary) -> int:
    """Milliseconds from start to end, 0 when either is missing: what the list sorts by."""
    if summary.execution_start_time is None or summary.execution_end_time is None:
        return 0
    return summary.execution_end_time - summary.execution_start_time


def finished_detail(summary: JobSummary, entry: bytes, user: str, attempts: int) -> JobDetail:
    """A finished job whole, read back from its history entry."""
    fields = loads_anything(entry)
    number, job_id, prompt, extra_data, targets = fields["prompt"]
    job = Job(
        id=job_id,
        number=number,
        prompt=prompt,
        extra_data=extra_data,
        targets=targets,
        user=user,
        created_at=summary.create_time,
        attempts=attempts,
    )
    assert summary.execution_end_time is not None
    outcome = Outcome(
        status=summary.status,
        started_at=summary.execution_start_time,
        finished_at=summary.execution_end_time,
        outputs=fields["outputs"],
        meta=fields["meta"],
        messages=[(kind, data) for kind, data in fields["status"]["messages"]],
    )
    return JobDetail(summary, job, outcome)


def newest_fitting(sizes: Sequence[int], most: int) -> tuple[int, int]:
    """How many of the first sizes are `most` together, the first in any case; and how many there are."""
    count = sum(1 for total in accumulate(sizes) if total <= most)
    return max(count, min(1, len(sizes))), len(sizes)
