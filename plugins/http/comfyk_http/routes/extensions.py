"""`/extensions`: the scripts that packs and plugins add to the web UI."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

from aiohttp import web
from comfyk.api import ApiError, file_answer, operation
from comfyk.folders import PathOutsideError, is_file, resolve_inside, walk

from comfyk_http.answer_descriptions import gives
from comfyk_http.json_answers import json_answer
from comfyk_http.keys import APP


def _scripts(directories: Mapping[str, Path]) -> list[str]:
    return [
        f"/extensions/{quote(name)}/{quote(file.relative_to(folder).as_posix())}"
        for name, folder in directories.items()
        for file in sorted(_in_folder(folder))
        if _file_in(folder, file.relative_to(folder).as_posix()) is not None
    ]


def _in_folder(top: Path) -> Iterator[Path]:
    for folder, _, files in walk(top, follow_links=False):
        yield from (Path(folder, name) for name in files if name.endswith(".js"))


def _file_in(folder: Path, name: str) -> Path | None:
    """A file of a web directory; None for what is none, or leads out of it."""
    try:
        file = resolve_inside(folder, name)
    except PathOutsideError:
        return None
    return file if is_file(file) else None


@operation(
    "getExtensions",
    "The scripts that packs add to the web UI",
    tag="extensions",
    answers={200: gives("Addresses of scripts", list[str])},
)
async def list_extensions(request: web.Request) -> web.Response:
    """The web UI loads each when it starts."""
    await request.app[APP].packs_loaded()
    return json_answer(await asyncio.to_thread(_scripts, dict(request.app[APP].web_directories)))


async def get_extension_file(request: web.Request) -> web.StreamResponse:
    """A file of a web directory. Browsers ask each time whether it changed, since packs are updated in place."""
    await request.app[APP].packs_loaded()
    folder = request.app[APP].web_directories.get(request.match_info["name"])
    file = _file_in(folder, request.match_info["path"]) if folder is not None else None
    if file is None:
        raise ApiError(404, "not_found", f"There is no file {request.path}.")
    return file_answer(request, file, show="run", headers={"Cache-Control": "no-cache"})
