"""`/jobs`: jobs in every state, with filters and pages, and cancelling them."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from typing import Any

from aiohttp import web
from comfyk.api import ApiError, as_text, operation, scope_of
from comfyk.jobs import JobDetail, JobQuery, JobStatus, JobSummary, listed_outputs

from comfyk_http.answer_descriptions import gives
from comfyk_http.json_answers import json_answer
from comfyk_http.keys import APP
from comfyk_http.requests import CancelRequest, JobsQuery, is_job_id


@operation(
    "listJobs",
    "Jobs in every state, filtered, sorted and in pages",
    tag="queue",
    user=True,
    errors=as_text,
    answers={200: gives("One page", "JobsPage")},
)
async def list_jobs(request: web.Request, query: JobsQuery) -> web.Response:
    """Without a `limit` all jobs, and then the page's limit is their number."""
    offset = max(query.offset, 0)
    found, total = await request.app[APP].jobs.store.list(
        JobQuery(
            statuses=query.statuses,
            workflow_id=query.workflow_id or None,
            user=scope_of(request),
            sort_by=query.sort_by,
            descending=query.sort_order == "desc",
            limit=query.limit,
            offset=offset,
        )
    )
    page = {
        "offset": offset,
        "limit": total if query.limit is None else query.limit,
        "total": total,
        "has_more": offset + len(found) < total,
    }
    return json_answer({"jobs": [_line(job) for job in found], "pagination": page})


@operation(
    "getJob",
    "One job whole",
    tag="queue",
    path={"job_id": uuid.UUID},
    user=True,
    errors=as_text,
    answers={200: gives("The job", "JobDetail"), 404: gives("There is no such job", "ErrorText")},
)
async def get_job(request: web.Request) -> web.Response:
    """One job whole."""
    job_id = request.match_info["job_id"]
    detail = None
    if is_job_id(job_id):
        detail = await request.app[APP].jobs.store.get(job_id, scope_of(request))
    if detail is None:
        raise ApiError(404, "not_found", "Job not found")
    return json_answer(_details(detail))


@operation(
    "cancelJob",
    "Cancel a job, running or pending",
    tag="queue",
    path={"job_id": uuid.UUID},
    user=True,
    errors=as_text,
    answers={200: gives("Whether it was still to be cancelled", "Cancelled")},
)
async def cancel_job(request: web.Request) -> web.Response:
    """An ended or unknown job stays as it is, and that is no error."""
    return json_answer({"cancelled": await _cancel(request, [request.match_info["job_id"]])})


@operation(
    "cancelJobs",
    "Cancel several jobs",
    tag="queue",
    user=True,
    errors=as_text,
    answers={200: gives("Whether any was still to be cancelled", "Cancelled")},
)
async def cancel_jobs(request: web.Request, body: CancelRequest) -> web.Response:
    """Jobs that have ended, or never were, are passed over."""
    wrong = [
        value if isinstance(value, str) else repr(value) for value in body.job_ids if not is_job_id(value)
    ]
    if wrong:
        raise ApiError(400, "invalid_request", "job_ids contains invalid id(s)", extra={"invalid_ids": wrong})
    return json_answer({"cancelled": await _cancel(request, body.job_ids)})


async def _cancel(request: web.Request, job_ids: list[str]) -> bool:
    """Cancel those of the jobs that the request may see; whether there was any to cancel."""
    queue, user = request.app[APP].jobs, scope_of(request)
    if user is not None:
        running, pending = await queue.listing(user)
        own = {job.id for job in (*running, *pending)}
        job_ids = [job_id for job_id in job_ids if job_id in own]
    states = [await queue.cancel(job_id) for job_id in job_ids]
    return any(state in (JobStatus.PENDING, JobStatus.IN_PROGRESS) for state in states)


def _line(job: JobSummary) -> dict[str, Any]:
    """A job as it is listed: what is not known is left out."""
    line = {name: value for name, value in asdict(job).items() if value is not None}
    if error := line.get("execution_error"):
        line["execution_error"] = _error(error)
    return line


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


def _details(detail: JobDetail) -> dict[str, Any]:
    job, outcome = detail.job, detail.outcome
    details = _line(detail.summary)
    details["workflow"] = {"prompt": job.prompt, "extra_data": job.extra_data}
    if outcome is not None:
        completed = outcome.status is JobStatus.COMPLETED
        details["outputs"] = listed_outputs(outcome.outputs)
        details["execution_status"] = {
            "status_str": "success" if completed else "error",
            "completed": completed,
            "messages": outcome.messages,
        }
        details["execution_meta"] = outcome.meta
        details["update_time"] = outcome.finished_at
    return details
