"""How jobs look from outside, whichever store keeps them: history entries, lines of the list, details.

A finished job is kept as the JSON of its history entry, which is what clients ask for most; the rest of what
is known of it is read back from there.
"""

from __future__ import annotations

import json
from typing import Any

from comfyk.jobs.model import Job, JobStatus, Outcome
from comfyk.jobs.outputs import summarize_outputs
from comfyk.jobs.store import JobDetail, JobSummary
from comfyk.wire import dumps, loads


def history_entry_json(job: Job, outcome: Outcome) -> bytes:
    """The value that `/history` shows under the job's id: `prompt`, `outputs`, `status` and `meta`.

    Beside what ComfyUI has: `status_code` (100 is success) and `timestamp` (seconds), as other servers of this API.
    """
    completed = outcome.status is JobStatus.COMPLETED
    return kept_json(
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


def unfinished_summary(job: Job, status: JobStatus, started_at: int | None) -> JobSummary:
    """The line of a pending or running job."""
    return JobSummary(
        id=job.id,
        status=status,
        priority=job.number,
        create_time=job.created_at,
        execution_start_time=started_at,
        outputs_count=0,
        previewable_outputs_count=0,
        workflow_id=job.workflow_id,
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
    fields = read_kept(entry)
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


def kept_json(value: Any) -> bytes:
    """The JSON of what a node produced, whatever it produced: a job that has run must be able to end.

    What has no JSON form (text that is not Unicode, a list that contains itself) is kept as near as possible.
    """
    try:
        return dumps(value)
    except Exception:  # of whatever kind: the values' own methods take part
        return dumps(_plain(value, ()))


def read_kept(data: bytes) -> Any:
    """Parse JSON that a store has kept. It may be nested deeper than what clients may send."""
    try:
        return loads(data)
    except ValueError:
        return json.loads(data)


_DEEPEST = 200
"""Levels of nesting that `_plain` keeps; pydantic writes up to 254."""


def _plain(value: Any, parents: tuple[int, ...]) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if not isinstance(value, dict | list | tuple):
        return _text(value)
    if id(value) in parents or len(parents) == _DEEPEST:
        return "..."
    parents = (*parents, id(value))
    if isinstance(value, dict):
        return {_text(key): _plain(item, parents) for key, item in value.items()}
    return [_plain(item, parents) for item in value]


def _text(value: Any) -> str:
    try:
        return str(value).encode("utf-8", "replace").decode("utf-8")
    except Exception:  # of whatever kind: it is the value's own method
        return f"<{type(value).__name__}>"
