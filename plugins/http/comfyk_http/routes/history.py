"""`/history`: the jobs that have ended. The store has each entry as JSON already; nothing is parsed."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterable, Sequence

from aiohttp import web
from comfyk.api import operation, scope_of
from comfyk.wire import dumps

from comfyk_http.answer_descriptions import gives
from comfyk_http.json_answers import json_answer, json_bytes, json_pieces, success
from comfyk_http.keys import APP, SETTINGS
from comfyk_http.requests import HistoryQuery, HistoryRequest, is_job_id


def _members(entries: Iterable[tuple[str, bytes]]) -> bytes:
    return b",".join([dumps(job_id) + b":" + entry for job_id, entry in entries])


def _object(entries: Iterable[tuple[str, bytes]]) -> bytes:
    return b"{" + _members(entries) + b"}"


@operation(
    "getHistory",
    "The jobs that have ended",
    tag="history",
    user=True,
    answers={200: gives("Entries by prompt id", "History")},
)
async def get_history(request: web.Request, query: HistoryQuery) -> web.StreamResponse:
    """Entries by job id, oldest first; `max_items` alone gives the newest, `offset` counts from the oldest.

    Without either the newest are sent, as many as `http.history_mb` allows. The header `X-History-Total` says how many
    there are when some are left out.
    """
    store, user = request.app[APP].jobs.store, scope_of(request)
    limit, headers = query.max_items, {}
    if limit is None and query.offset is None:
        limit, total = await store.history_fitting(round(request.app[SETTINGS].history_mb * 1_000_000), user)
        if limit < total:
            headers["X-History-Total"] = str(total)
    parts = store.history_parts(limit, query.offset, user)
    return await json_pieces(request, _pieces(parts), headers)


async def _pieces(parts: AsyncIterator[Sequence[tuple[str, bytes]]]) -> AsyncIterator[bytes]:
    between = b"{"
    async for part in parts:
        if part:
            yield between + _members(part)
            between = b","
    yield b"}" if between == b"," else b"{}"


@operation(
    "getHistoryByPromptId",
    "One job that has ended",
    tag="history",
    path={"prompt_id": uuid.UUID},
    user=True,
    answers={200: gives("The entry under its id; an empty object if there is none", "History")},
)
async def get_history_entry(request: web.Request) -> web.Response:
    """One entry under its id; an empty object when there is none."""
    job_id = request.match_info["prompt_id"]
    entry = None
    if is_job_id(job_id):
        entry = await request.app[APP].jobs.store.history_entry(job_id, scope_of(request))
    return json_bytes(_object([] if entry is None else [(job_id, entry)]))


@operation(
    "manageHistory",
    "Clear the history, or delete entries",
    tag="history",
    user=True,
    answers={200: gives("Done; with `files` how many files were deleted", "HistoryChanged")},
)
async def post_history(request: web.Request, body: HistoryRequest) -> web.Response:
    """Clear the history, or delete entries from it; with `files` also the files that those jobs wrote.

    Previews in the temp folder go in either case, once no job in the history shows them.
    """
    queue, user, files = request.app[APP].jobs, scope_of(request), 0
    if body.clear:
        files += await queue.delete_history(None, user, files=body.files)
    if body.delete:
        ids = [job_id for job_id in body.delete if is_job_id(job_id)]
        files += await queue.delete_history(ids, user, files=body.files)
    return json_answer({"files_deleted": files}) if body.files else success()
