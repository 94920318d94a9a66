"""`/internal`: what the web UI asks of its own server. Other programs should not rely on it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiohttp import web
from comfyk.api import is_leftover, operation
from comfyk.folders import entries_of

from comfyk_http.answer_descriptions import done, gives, sends
from comfyk_http.json_answers import json_answer, success
from comfyk_http.keys import APP, LOG_FEED
from comfyk_http.log_feed import terminal_size
from comfyk_http.requests import LogSubscription
from comfyk_http.server_log import SERVER_LOG, in_milliseconds


@operation(
    "getInternalLogs",
    "The last lines of the log",
    tag="internal",
    answers={200: sends("As text", "text/plain")},
)
async def get_logs(request: web.Request) -> web.Response:
    """Each with the time it was written."""
    return web.Response(text="".join(f"{entry['t']} - {entry['m']}" for entry in SERVER_LOG.entries()))


@operation(
    "getInternalLogsRaw",
    "The last entries of the log",
    tag="internal",
    answers={200: gives("Entries, and the size of the terminal", "RawLogs")},
)
async def get_raw_logs(request: web.Request) -> web.Response:
    """What is printed counts as well. Times are milliseconds since the epoch."""
    entries = [{**entry, "t": in_milliseconds(entry["t"])} for entry in SERVER_LOG.entries()]
    return json_answer({"entries": entries, "size": terminal_size()})


@operation(
    "subscribeToLogs",
    "Send new entries of the log to a WebSocket client",
    tag="internal",
    answers={200: done("Done")},
)
async def subscribe(request: web.Request, body: LogSubscription) -> web.Response:
    """As messages of the type `logs`, until it disconnects or says otherwise."""
    request.app[LOG_FEED].subscribe(body.client_id, body.enabled)
    return success()


@operation(
    "getInternalFolderPaths",
    "Where files are looked for",
    tag="internal",
    answers={200: gives("Folders by kind", dict[str, list[list[str]]])},
)
async def get_folder_paths(request: web.Request) -> web.Response:
    """Each folder in a list of its own."""
    kinds = request.app[APP].folders.kinds
    return json_answer({name: [[str(path)] for path in kind.paths] for name, kind in kinds.items()})


@operation(
    "getInternalFiles",
    "The files at the top of a folder",
    tag="internal",
    answers={200: gives("Names with the folder, newest first", list[str])},
)
async def get_files(request: web.Request) -> web.Response:
    """`directory_type` is one of `input`, `output` and `temp`; there are no files of any other."""
    type = request.match_info["directory_type"]
    try:
        folder = request.app[APP].folders.directory(type)
    except ValueError:
        return json_answer([])
    names = await asyncio.to_thread(_newest_first, folder)
    return json_answer([f"{name} [{type}]" for name in names])


def _newest_first(folder: Path) -> list[str]:
    found: list[tuple[float, str]] = []
    for entry in entries_of(folder):
        if entry.name.startswith(".") or is_leftover(entry.name):
            continue
        try:
            if entry.is_file():
                found.append((entry.stat().st_mtime, entry.name))
        except OSError:
            continue
    return [name for _, name in sorted(found, key=lambda item: (-item[0], item[1]))]
