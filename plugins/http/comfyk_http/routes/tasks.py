"""`/tasks`: background work of the server (`app.tasks`), such as downloads and installations."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from comfyk.api import ApiError, BadField, as_text, operation, scope_of
from comfyk.tasks import Task, TaskStatus

from comfyk_http.answer_descriptions import gives
from comfyk_http.json_answers import json_answer
from comfyk_http.keys import APP
from comfyk_http.reading import parse, query_of
from comfyk_http.requests import TasksQuery

_NONE = gives("There is no such task", "ErrorText")


@operation(
    "listTasks",
    "Background tasks, filtered, sorted and in pages",
    tag="task",
    query=TasksQuery,
    user=True,
    errors=as_text,
    answers={
        200: gives("One page", "TasksPage"),
        422: gives("A parameter is not what it has to be", "ErrorText"),
    },
)
async def list_tasks(request: web.Request) -> web.Response:
    """Newest first, unless `sort_order` is `asc`. A task that was cancelled counts as failed."""
    try:
        query = parse(TasksQuery, query_of(request))
    except BadField as error:
        error.status = 422  # what the API gives for this
        raise
    found, total = request.app[APP].tasks.list(
        name=query.task_name or None,
        status=query.statuses,
        key=query.idempotency_key or None,
        user=scope_of(request),
        created_after=_milliseconds(query.created_after),
        created_before=_milliseconds(query.created_before),
        newest_first=query.sort_order == "desc",
        offset=query.offset,
        limit=query.limit,
    )
    page = {
        "offset": query.offset,
        "limit": query.limit,
        "total": total,
        "has_more": query.offset + len(found) < total,
    }
    return json_answer({"tasks": [_entry(task) for task in found], "pagination": page})


@operation(
    "getTask",
    "One background task whole",
    tag="task",
    path={"task_id": uuid.UUID},
    user=True,
    errors=as_text,
    answers={200: gives("The task", "TaskDetail"), 404: _NONE},
)
async def get_task(request: web.Request) -> web.Response:
    """With what was asked for, and what came of it."""
    return json_answer(_details(_task(request)))


@operation(
    "cancelTask",
    "Cancel a background task",
    tag="task",
    path={"task_id": uuid.UUID},
    user=True,
    errors=as_text,
    answers={200: gives("Whether it was still to be cancelled", "Cancelled"), 404: _NONE},
)
async def cancel_task(request: web.Request) -> web.Response:
    """It is asked to end; that it has is told as a message of the type `task`."""
    return json_answer({"cancelled": request.app[APP].tasks.cancel(_task(request).id)})


def _task(request: web.Request) -> Task:
    """The task in the path, if the request may see it. Raises ApiError (404)."""
    scope = scope_of(request)
    task = request.app[APP].tasks.get(request.match_info["task_id"])
    if task is None or scope not in (None, task.user):
        raise ApiError(404, "not_found", "Task not found")
    return task


def _entry(task: Task) -> dict[str, Any]:
    """A task as it is listed: what is not known is left out."""
    entry: dict[str, Any] = {
        "id": task.id,
        "task_name": task.name,
        "title": task.title,
        # The API knows no other way to end than these two.
        "status": "failed" if task.status is TaskStatus.CANCELLED else task.status,
        "cancelled": task.status is TaskStatus.CANCELLED,
        "create_time": _time(task.created_at),
        "started_at": _time(task.started_at),
        "completed_at": _time(task.ended_at),
        "progress": {"value": task.value, "total": task.total, "message": task.message},
    }
    return {name: value for name, value in entry.items() if value is not None}


def _details(task: Task) -> dict[str, Any]:
    details = _entry(task)
    details |= {
        "idempotency_key": task.key or task.id,
        "payload": task.payload,
        "update_time": _time(task.updated_at),
    }
    if task.result is not None:
        details["result"] = task.result if isinstance(task.result, dict) else {"value": task.result}
    if task.error or task.status is TaskStatus.CANCELLED:
        details["error"] = task.error or "It was cancelled."
    return details


def _time(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat()


def _milliseconds(time: datetime | None) -> int | None:
    """A time without a zone is UTC."""
    if time is None:
        return None
    return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)
