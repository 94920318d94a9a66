"""`/queue`, `/interrupt` and `/free`: look at the queue and change it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from aiohttp import web
from comfyk.api import BadField, operation, scope_of
from comfyk.jobs import QueuedJob
from comfyk.wire import dumps, loads_anything

from comfyk_http.answer_descriptions import done, gives
from comfyk_http.json_answers import json_answer, json_pieces, success
from comfyk_http.keys import APP, SETTINGS
from comfyk_http.requests import FreeRequest, InterruptRequest, QueueRequest

Bodies = Callable[[list[QueuedJob]], AsyncIterator[list[tuple[QueuedJob, bytes]]]]


@operation(
    "getQueue",
    "The running and the pending jobs",
    tag="queue",
    user=True,
    answers={200: gives("The queue", "QueueInfo")},
)
async def get_queue(request: web.Request) -> web.StreamResponse:
    """Jobs in the order in which they run."""
    queue, user = request.app[APP].jobs, scope_of(request)
    running, pending = await queue.listing(user)
    shape = _haiven if request.app[SETTINGS].queue_shape == "haiven" else _comfyui
    return await json_pieces(request, shape(queue.bodies, running, pending))


async def _comfyui(
    bodies: Bodies, running: list[QueuedJob], pending: list[QueuedJob]
) -> AsyncIterator[bytes]:
    def item(job: QueuedJob, body: bytes) -> bytes:
        return dumps([job.number, job.id])[:-1] + b"," + body[1:]  # which is a list of three

    yield b'{"queue_running":['
    async for piece in _items(bodies, running, item):
        yield piece
    yield b'],"queue_pending":['
    async for piece in _items(bodies, pending, item):
        yield piece
    yield b"]}"


async def _haiven(bodies: Bodies, running: list[QueuedJob], pending: list[QueuedJob]) -> AsyncIterator[bytes]:
    """Ids, and of pending jobs the prompt; what has run does not count any more."""

    def item(job: QueuedJob, body: bytes) -> bytes:
        return dumps([job.id, {"prompt": loads_anything(body)[0], "outputs": {}}])

    latest = running[-1].id if running else None
    yield b'{"queue_running":' + dumps(latest) + b',"queue_pending":['
    async for piece in _items(bodies, pending, item):
        yield piece
    yield b"]}"


async def _items(
    bodies: Bodies, jobs: list[QueuedJob], item: Callable[[QueuedJob, bytes], bytes]
) -> AsyncIterator[bytes]:
    """The members of a list of jobs."""
    between = b""
    async for part in bodies(jobs):
        if part:
            yield between + b",".join([item(job, body) for job, body in part])
            between = b","


@operation(
    "manageQueue",
    "Clear the queue, delete jobs, move one, pause or resume",
    tag="queue",
    user=True,
    answers={200: done("Done")},
)
async def post_queue(request: web.Request, body: QueueRequest) -> web.Response:
    """All that is asked for is done; while the queue is paused no further job is started."""
    queue, user = request.app[APP].jobs, scope_of(request)
    if body.move is not None and body.move.prompt_id not in {
        job.id for job in (await queue.listing(user))[1]
    }:
        raise BadField("move.prompt_id", "no pending job has this id", status=404, type="not_found")
    if body.clear:
        await queue.clear(user=user)
    if body.delete:
        await queue.delete(body.delete, user=user)
    if body.move is not None:
        await queue.move(body.move.prompt_id, front=body.move.front, number=body.move.number)
    if body.pause:
        queue.pause()
    elif body.resume:
        queue.resume()
    return success()


@operation(
    "interruptExecution",
    "Interrupt the running job",
    tag="queue",
    optional_body=True,
    user=True,
    answers={200: done("Done")},
)
async def interrupt(request: web.Request, body: InterruptRequest) -> web.Response:
    """With a `prompt_id` only if that job is the running one; in multi-user mode only the user's own jobs."""
    queue, user = request.app[APP].jobs, scope_of(request)
    for job in (await queue.listing(user))[0]:
        if body.prompt_id in (None, "", job.id):
            await queue.cancel_running(job.id)
    return success()


@operation(
    "freeMemory",
    "Unload models and empty caches",
    tag="queue",
    optional_body=True,
    answers={200: gives("What that freed", "Freed")},
)
async def free(request: web.Request, body: FreeRequest) -> web.Response:
    """While a job runs it is put off."""
    freed = await request.app[APP].jobs.free(unload_models=body.unload_models, free_memory=body.free_memory)
    return json_answer(freed)
