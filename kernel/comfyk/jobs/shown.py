"""Jobs in the JSON that `/jobs` shows, for whoever tells of a job: routes, webhooks."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from comfyk.jobs.history import finished_summary
from comfyk.jobs.model import Job, JobStatus, Outcome
from comfyk.jobs.outputs import listed_outputs
from comfyk.jobs.store import JobDetail, JobSummary


def shown_line(job: JobSummary) -> dict[str, Any]:
    """A job as it is listed: what is not known is left out."""
    line = {name: value for name, value in asdict(job).items() if value is not None}
    if error := line.get("execution_error"):
        line["execution_error"] = _error(error)
    return line


def shown_detail(detail: JobDetail) -> dict[str, Any]:
    """A job whole; once it has ended, with its outcome."""
    job, outcome = detail.job, detail.outcome
    shown = shown_line(detail.summary)
    shown["workflow"] = {"prompt": job.prompt, "extra_data": job.extra_data}
    if outcome is not None:
        completed = outcome.status is JobStatus.COMPLETED
        shown["outputs"] = listed_outputs(outcome.outputs)
        shown["execution_status"] = {
            "status_str": "success" if completed else "error",
            "completed": completed,
            "messages": outcome.messages,
        }
        shown["execution_meta"] = outcome.meta
        shown["update_time"] = outcome.finished_at
    return shown


def ended_detail(job: Job, outcome: Outcome) -> JobDetail:
    """A job that has just ended, whether or not a store keeps it."""
    return JobDetail(finished_summary(job, outcome), job, outcome)


def _error(told: dict[str, Any]) -> dict[str, Any]:
    """An error in the form that the jobs routes give it: the message over the WebSocket has it otherwise."""
    done = told.get("current_outputs") or ()
    return {
        **told,
        # Texts also when the error is no node's.
        "node_id": told.get("node_id") or "",
        "node_type": told.get("node_type") or "",
        "current_inputs": told.get("current_inputs") or {},
        # The nodes that were done, as the keys of an object.
        "current_outputs": done if isinstance(done, dict) else {node: {} for node in done},
    }
