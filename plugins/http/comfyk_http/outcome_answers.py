"""Answers that say how a job ended or how far it is, or that are the picture which it made."""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import urlencode

from aiohttp import web
from comfyk.api import ApiError, file_answer
from comfyk.jobs import Job, JobDetail, JobStatus, shown_detail

from comfyk_http.job_watch import JobWatch
from comfyk_http.json_answers import json_answer
from comfyk_http.keys import APP, JOB_WATCH
from comfyk_http.result_picture import accepted_pictures, pictures_of
from comfyk_http.routes.view import locate

log = logging.getLogger(__name__)

PROMPT_ID = "Comfyk-Prompt-Id"
"""The header of a picture that names the job which made it."""


def shown_job(watch: JobWatch, detail: JobDetail) -> dict[str, Any]:
    """A job whole, with how far it is."""
    shown, progress = shown_detail(detail), watch.progress(detail)
    return shown if progress is None else {**shown, "progress": progress}


async def answer_with_outcome(
    request: web.Request, job: Job, told: dict[str, Any], seconds: float
) -> web.StreamResponse:
    """Wait for a job that was just queued, and answer with its outcome, or the picture if the client wants that.

    `told` is what is known of the job already. After so many seconds: 202, with where to look.
    """
    watch = request.app[JOB_WATCH]
    detail = await watch.ended(request, job, seconds)
    if detail is None:
        # Relative, so that it is right below `/api` and behind a proxy too.
        headers = {"Location": f"jobs/{job.id}"}
        current = await request.app[APP].jobs.store.get(job.id)
        shown = {} if current is None else shown_job(watch, current)
        return json_answer({**told, **shown}, status=202, headers=headers)
    ranges = accepted_pictures(request.headers.get("Accept", ""))
    if ranges:
        return await _picture(request, detail, ranges)
    return json_answer({**told, **shown_job(watch, detail)})


async def _picture(request: web.Request, detail: JobDetail, ranges: list[str]) -> web.StreamResponse:
    """The best picture. Raises ApiError when the job made none of these."""
    job, outcome = detail.job, detail.outcome
    assert outcome is not None
    extra, headers = {"prompt_id": job.id}, {PROMPT_ID: job.id}
    if outcome.status is JobStatus.CANCELLED:
        raise ApiError(409, "job_cancelled", "The job was cancelled.", extra=extra, headers=headers)
    if outcome.status is JobStatus.FAILED:
        error = outcome.error or {}
        about = {name: error.get(name) for name in ("node_id", "node_type", "exception_type")}
        message = str(error.get("exception_message") or "The job failed.").strip()
        raise ApiError(500, "job_failed", message, extra_info=about, extra=extra, headers=headers)
    for picture in pictures_of(outcome.outputs, ranges):
        try:
            path = await locate(request.app[APP].folders, *picture)
        except (ValueError, OSError) as error:  # a pack's node may show anything
            log.warning("job %s shows a picture that cannot be: %s", job.id, error)
            continue
        if path is not None:
            where = f"view?{urlencode(picture._asdict())}"
            return file_answer(request, path, headers={**headers, "Content-Location": where})
    raise ApiError(
        406,
        "no_picture",
        f"The job made no picture of the kind {', '.join(ranges)}.",
        "GET /jobs/{prompt_id} has all that it made; SaveImage and PreviewImage make PNG files.",
        extra=extra,
        headers=headers,
    )
