"""`/prompt`: a prompt comes in and is queued."""

from __future__ import annotations

import logging
from typing import Any

from aiohttp import web
from comfyk.api import Answer, ApiError, BadField, as_prompt_error, operation, user_of
from comfyk.events import now_ms
from comfyk.graph import PromptError, node_errors_summary
from comfyk.jobs import DuplicateJobError, Job, QueueFullError
from comfyk.wire import dumps
from comfyk.workflows import is_bare_prompt, is_ui_workflow

from comfyk_http.answer_descriptions import gives
from comfyk_http.bodies import BODIES
from comfyk_http.json_answers import json_answer
from comfyk_http.keys import APP, HUB, JOB_WATCH, USERS
from comfyk_http.outcome_answers import answer_with_outcome
from comfyk_http.reading import parse, read_json
from comfyk_http.requests import PromptRequest, WaitQuery, is_job_id
from comfyk_http.routes.system import queue_info

log = logging.getLogger(__name__)

SENSITIVE = ("auth_token_comfy_org", "api_key_comfy_org")
"""Keys of `extra_data` that are never shown, and forgotten when the job ends."""


@operation(
    "getPromptInfo",
    "How many jobs remain",
    tag="prompt",
    answers={200: gives("Pending and running jobs", "PromptInfo")},
)
async def get_prompt(request: web.Request) -> web.Response:
    """The running job is among them."""
    return json_answer(queue_info(request.app[APP]))


@operation(
    "executePrompt",
    "Queue a prompt",
    tag="prompt",
    body=PromptRequest,
    user=True,
    errors=as_prompt_error,
    answers={
        200: Answer(
            "It is queued, and stored durably; with `wait`: it has ended",
            "comfyk_http.schemas:PromptAnswer",
            ("image/*",),
        ),
        202: gives("It has not ended after so many seconds", "PromptOutcome"),
        400: gives("It cannot be executed", "PromptErrorResponse"),
    },
)
async def post_prompt(request: web.Request, query: WaitQuery) -> web.StreamResponse:
    """Outputs that are not valid are left out; the prompt is refused when none remains.

    With `wait` the answer comes when the job has ended, and says how, as `GET /jobs/{job_id}` does; with the header
    `Accept: image/*` it is the first picture that the job saved, or 406 when there is none, 409 when the job was
    cancelled, 500 when it failed. A client that leaves does not cancel the job.
    """
    if query.wait is not None:
        request.app[JOB_WATCH].check_room()
    try:
        queued = await _queue(request)
    except ApiError as error:
        log.warning("refused a prompt: %s %s", error.message, error.details)
        raise
    if isinstance(queued, web.Response):
        return queued
    job, node_errors = queued
    told = {"prompt_id": job.id, "number": job.number, "node_errors": node_errors}
    if query.wait is None:
        return json_answer(told)
    request.app[BODIES].forget(request)  # it is stored, and others want the room
    return await answer_with_outcome(request, job, told, query.wait)


async def _queue(request: web.Request) -> tuple[Job, dict[str, Any]] | web.Response:
    """The job, with what is wrong behind outputs that are left out; or the answer that says why there is none."""
    app = request.app[APP]
    body = await read_json(request, lax=True)
    _refuse_what_is_no_prompt(body)
    asked = parse(PromptRequest, body)
    job_id = body.get("prompt_id")
    if job_id is not None and not is_job_id(job_id):
        raise ApiError(
            400,
            "invalid_prompt_id",
            "prompt_id must be a valid UUID",
            "It has to be in the canonical form, lowercase with hyphens; leave it out and the server makes one.",
        )
    extra_data, sensitive = _extra_data(request, asked, body)
    user = user_of(request)
    if "client_id" in extra_data and request.app[USERS].multi_user:
        request.app[HUB].claim(extra_data["client_id"], user)
    try:
        submission = await app.jobs.submit(
            asked.prompt,
            extra_data=extra_data,
            number=asked.number,
            front=asked.front,
            targets=asked.partial_execution_targets,
            job_id=job_id,
            user=user,
            sensitive=sensitive,
        )
    except PromptError as error:
        log.warning("refused a prompt: %s", error.summary)
        beside = {"detail": error.error["details"] or error.error["message"], "status_code": 400}
        return web.Response(
            status=400,
            body=dumps({"error": error.error, "node_errors": error.node_errors, **beside}),
            content_type="application/json",
        )
    except DuplicateJobError as error:
        raise ApiError(400, "duplicate_prompt_id", "A job with this prompt_id exists.", str(error)) from None
    except QueueFullError as error:
        if error.never:
            raise ApiError(413, "too_large", str(error)) from None
        raise ApiError(503, "queue_full", str(error), headers={"Retry-After": "10"}) from None
    job = submission.job
    if submission.node_errors:
        left_out = node_errors_summary(submission.node_errors)
        log.warning("prompt %s runs without what is behind these errors: %s", job.id, left_out)
    return job, submission.node_errors


def _refuse_what_is_no_prompt(body: dict[str, Any]) -> None:
    """Say of what people send in a prompt's place what it is, and what to do with it. Raises ApiError."""
    prompt = body.get("prompt")
    if is_ui_workflow(body if prompt is None else prompt):
        raise ApiError(
            400,
            "ui_workflow",
            "This is a workflow as the web UI saves it, not a prompt.",
            'Export it with File > Export (API) and send {"prompt": <that file>}; '
            "`comfyk run` takes the file as it is.",
        )
    if prompt is None:
        if is_bare_prompt(body):
            message, todo = 'This is a prompt that is not wrapped: wrap it as {"prompt": ...}.', ""
            raise ApiError(400, "bare_prompt", message, todo)
        raise ApiError(400, "no_prompt", "No prompt provided", 'Send {"prompt": {<node id>: <node>, ...}}.')


def _extra_data(
    request: web.Request, asked: PromptRequest, body: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is kept with the job, and what must not be seen of it."""
    extra_data = asked.extra_data or {}
    if "client_id" in body:
        extra_data["client_id"] = asked.client_id
    client_id = extra_data.get("client_id")
    if client_id is None:
        extra_data.pop("client_id", None)
    elif not isinstance(client_id, str):
        raise BadField("extra_data.client_id", "Input should be a valid string")
    source = request.headers.get("Comfy-Usage-Source")
    if source:
        extra_data.setdefault("comfy_usage_source", source)
    extra_data["create_time"] = now_ms()
    return extra_data, {key: extra_data.pop(key) for key in SENSITIVE if key in extra_data}
