"""`/queue`, `/interrupt` and `/free`: look at the queue and change it."""

from __future__ import annotations

from aiohttp import web
from comfyk.jobs.model import Job

from comfyk_http.answers import json_answer
from comfyk_http.errors import BadField
from comfyk_http.keys import APP
from comfyk_http.requests import FreeRequest, InterruptRequest, QueueRequest, parse, read_json, view_of


async def get_queue(request: web.Request) -> web.Response:
    """The running jobs and the pending ones in order, each as `[number, id, prompt, extra_data, targets]`."""
    queue, user = request.app[APP].jobs, view_of(request)

    def items(jobs: list[Job]) -> list[list[object]]:
        return [job.queue_item() for job in jobs if user in (None, job.user)]

    return json_answer({"queue_running": items(queue.running), "queue_pending": items(queue.pending)})


async def post_queue(request: web.Request) -> web.Response:
    """Clear the queue, delete jobs from it, move one, pause it or let it go on."""
    queue, user = request.app[APP].jobs, view_of(request)
    asked = parse(QueueRequest, await read_json(request))
    if asked.move is not None and not any(
        job.id == asked.move.prompt_id and user in (None, job.user) for job in queue.pending
    ):
        raise BadField("move.prompt_id", "no pending job has this id", status=404, type="not_found")
    if asked.clear:
        await queue.clear(user=user)
    if asked.delete:
        await queue.delete(asked.delete, user=user)
    if asked.move is not None:
        await queue.move(asked.move.prompt_id, front=asked.move.front, number=asked.move.number)
    if asked.pause:
        queue.pause()
    elif asked.resume:
        queue.resume()
    return web.Response()


async def interrupt(request: web.Request) -> web.Response:
    """Interrupt the running job; with a `prompt_id` only if it is the running one."""
    asked = parse(InterruptRequest, await read_json(request, optional=True))
    request.app[APP].jobs.interrupt(asked.prompt_id or None)
    return web.Response()


async def free(request: web.Request) -> web.Response:
    """Unload models and empty caches, and say what that freed."""
    asked = parse(FreeRequest, await read_json(request, optional=True))
    freed = await request.app[APP].jobs.free(unload_models=asked.unload_models, free_memory=asked.free_memory)
    return json_answer(freed)
