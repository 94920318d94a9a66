"""Remembers which files each job made, in a database of its own, and finds them again: `GET /gallery?word=sunset`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from aiohttp import web
from comfyk import App, current_app, hookimpl
from comfyk.api import Answer, operation, user_of
from comfyk.events import HistoryDeleted
from comfyk.jobs import Job, Outcome
from pydantic import BaseModel
from sqlalchemy import Engine, column, delete, insert, select, table

MIGRATIONS = Path(__file__).with_name("comfyk_gallery_migrations")

FILES = table("files", *(column(name) for name in ("job_id", "user", "folder", "name", "words")))

_engines: WeakKeyDictionary[App, Engine] = WeakKeyDictionary()


@hookimpl
async def comfyk_startup(app: App) -> None:
    """The database is closed by the app, after this plugin's shutdown."""
    _engines[app] = (await app.open_database("gallery", MIGRATIONS)).engine
    app.events.subscribe(
        lambda event: app.tasks.start("gallery.forget", lambda _: _forget(app, event)), HistoryDeleted
    )


@hookimpl
def comfyk_node_output(job: Job, output: dict[str, Any]) -> None:
    """Clients see by this that the file can be found."""
    for file in _files(output):
        file["gallery"] = f"/gallery?job={job.id}"


@hookimpl
async def comfyk_job_finished(app: App, job: Job, outcome: Outcome) -> None:
    """Whoever hears of the job's end finds its files: this is awaited before."""
    words = " ".join(_texts(job.prompt))
    rows = [
        {
            "job_id": job.id,
            "user": job.user,
            "folder": file["type"],
            "name": "/".join(filter(None, (file.get("subfolder"), file["filename"]))),
            "words": words,
        }
        for output in outcome.outputs.values()
        for file in _files(output)
    ]
    if rows:
        await asyncio.to_thread(_write, app, insert(FILES), rows)


async def _forget(app: App, event: HistoryDeleted) -> None:
    """What is deleted from the history goes from the gallery too; the files stay."""
    statement = delete(FILES)
    if event.ids is not None:
        statement = statement.where(FILES.c.job_id.in_(event.ids))
    if event.user is not None:
        statement = statement.where(FILES.c.user == event.user)
    await asyncio.to_thread(_write, app, statement, [])


def _write(app: App, statement: Any, rows: list[dict[str, Any]]) -> None:
    with _engines[app].begin() as connection:
        connection.execute(statement, rows) if rows else connection.execute(statement)


def _files(output: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for items in output.values():
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict) and "filename" in item and "type" in item:
                yield item


def _texts(prompt: dict[str, Any]) -> Iterator[str]:
    for node in prompt.values():
        yield from (value for value in node["inputs"].values() if isinstance(value, str))


class Search(BaseModel):
    """Without a word, all files."""

    word: str = ""
    job: str = ""
    limit: int = 100


class Found(BaseModel):
    """Files, newest first."""

    files: list[dict[str, Any]]


@operation(
    "searchGallery", "Find what jobs made", tag="gallery", user=True, answers={200: Answer("Files", Found)}
)
async def search(request: web.Request, query: Search) -> web.Response:
    """The words are those of the prompt's texts; each user finds their own files."""
    wanted = select(FILES.c.job_id, FILES.c.folder, FILES.c.name).where(FILES.c.user == user_of(request))
    if query.word:
        wanted = wanted.where(FILES.c.words.icontains(query.word, autoescape=True))
    if query.job:
        wanted = wanted.where(FILES.c.job_id == query.job)
    engine = _engines[current_app()]

    def read() -> list[dict[str, Any]]:
        with engine.connect() as connection:
            rows = connection.execute(wanted.order_by(column("id").desc()).limit(query.limit))
            return [dict(row._mapping) for row in rows]

    return web.json_response({"files": await asyncio.to_thread(read)})


@hookimpl
def comfyk_register_routes() -> list[web.RouteDef]:
    return [web.get("/gallery", search)]
