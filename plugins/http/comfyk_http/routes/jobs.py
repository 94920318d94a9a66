"""`/jobs`: jobs in every state, with filters and pages, and cancelling them."""

from __future__ import annotations

import uuid

from aiohttp import web
from comfyk.api import ApiError, as_text, operation, scope_of
from comfyk.jobs import JobQuery, JobStatus, shown_line

from comfyk_http.answer_descriptions import gives
from comfyk_http.json_answers import json_answer
from comfyk_http.keys import APP, JOB_WATCH
from comfyk_http.outcome_answers import shown_job
from comfyk_http.requests import CancelRequest, JobsQuery, WaitQuery, is_job_id


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
    return json_answer({"jobs": [shown_line(job) for job in found], "pagination": page})


@operation(
    "getJob",
    "One job whole",
    tag="queue",
    path={"job_id": uuid.UUID},
    user=True,
    errors=as_text,
    answers={200: gives("The job", "JobDetail"), 404: gives("There is no such job", "ErrorText")},
)
async def get_job(request: web.Request, query: WaitQuery) -> web.Response:
    """With `wait` it answers once the job begins to run or has ended, or when so many seconds are over.

    While the job runs here, `progress` says how far it is.
    """
    job_id, watch = request.match_info["job_id"], request.app[JOB_WATCH]
    detail = None
    if is_job_id(job_id):
        detail = await request.app[APP].jobs.store.get(job_id, scope_of(request))
    if detail is None:
        raise ApiError(404, "not_found", "Job not found")
    if query.wait and detail.outcome is None:
        detail = await watch.changed(request, detail, query.wait)
    return json_answer(shown_job(watch, detail))


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
