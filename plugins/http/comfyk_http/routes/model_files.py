"""`/experiment/models` and `/view_metadata`: model files with sizes, times, pictures and what is written in them."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

from aiohttp import web
from comfyk.api import ApiError, client_has, operation
from comfyk.folders import PathOutsideError

from comfyk_http import model_files, pictures
from comfyk_http.answer_descriptions import gives, sends
from comfyk_http.json_answers import json_answer
from comfyk_http.keys import APP, PICTURES
from comfyk_http.requests import FilenameQuery
from comfyk_http.safetensors_header import read_metadata

_NO_KIND = gives("There is no such kind of models", "ErrorObject")


@operation(
    "getExperimentModels",
    "The kinds of models, and where they are",
    tag="model",
    answers={200: gives("Kinds with their folders", "ModelFolders")},
)
async def get_kinds(request: web.Request) -> web.Response:
    """Folders are looked through in this order."""
    await request.app[APP].packs_loaded()
    kinds = request.app[APP].folders.kinds
    return json_answer(
        [
            {
                "name": name,
                "folders": [str(path) for path in kind.paths],
                "extensions": sorted(kind.extensions),
            }
            for name, kind in kinds.items()
            if name not in model_files.HIDDEN_KINDS
        ]
    )


@operation(
    "getExperimentModelsByFolder",
    "The model files of one kind, with sizes and times",
    tag="model",
    answers={200: gives("Files", "ModelFileList"), 404: _NO_KIND},
)
async def list_files(request: web.Request) -> web.Response:
    """`pathIndex` says in which of the kind's folders a file is."""
    await request.app[APP].packs_loaded()
    kind = request.match_info["folder"]
    try:
        found = await asyncio.to_thread(model_files.list_files, request.app[APP].folders, kind)
    except KeyError:
        raise ApiError(404, "not_found", f"There is no kind of models called {kind!r}.") from None
    return json_answer([asdict(file) for file in found])


@operation(
    "getModelPreview",
    "The picture of a model",
    tag="model",
    path={"path_index": int},
    answers={200: sends("The picture", "image/webp"), 404: gives("It has none", "ErrorObject")},
)
async def get_preview(request: web.Request) -> web.Response:
    """A picture beside the file (`NAME.png`, `NAME.preview.png` ...), or the first one inside of it."""
    info = request.match_info
    folders = request.app[APP].folders
    kind = folders.kinds.get(folders.canonical(info["folder"]))
    index = info["path_index"]
    if kind is None or not (index.isascii() and index.isdecimal() and int(index[:9]) < len(kind.paths)):
        raise ApiError(404, "not_found", "There is no such folder of models.")
    try:
        found = await asyncio.to_thread(model_files.find_preview, kind.paths[int(index)], info["filename"])
        if found is None:
            raise ApiError(404, "not_found", "The model has no picture.")
        headers = {"Cache-Control": "no-cache"}
        if isinstance(found, Path):
            stat = found.stat()
            tag = f"{stat.st_mtime_ns:x}-{stat.st_size:x}"
        else:
            tag = f"{crc32(found.getvalue()):x}"
        headers["ETag"] = f'W/"{tag}"'
        if client_has(request, tag):
            return web.Response(status=304, headers=headers)
        work = partial(pictures.preview, preview="webp", channel="")
        body, _ = await request.app[PICTURES].run(request, found, work)
    except (PathOutsideError, OSError, pictures.PictureError):
        raise ApiError(404, "not_found", "The model has no picture.") from None
    return web.Response(body=body, content_type="image/webp", headers=headers)


@operation(
    "viewMetadata",
    "What is written in a model file",
    tag="view",
    answers={
        200: gives("What its maker wrote into it", dict[str, Any]),
        404: gives("There is no such file, or nothing in it", "ErrorObject"),
    },
)
async def view_metadata(request: web.Request, query: FilenameQuery) -> web.Response:
    """Read from the header of a safetensors file; the weights are not touched."""
    folder, filename = request.match_info["folder_name"], query.filename
    metadata = None
    if filename.endswith(".safetensors"):
        try:
            path = await asyncio.to_thread(request.app[APP].folders.find, folder, filename)
            metadata = None if path is None else await asyncio.to_thread(read_metadata, path)
        except (OSError, ValueError):
            metadata = None
    if metadata is None:
        raise ApiError(
            404,
            "not_found",
            "There is no such file, or nothing is written in it.",
            extra_info={"field": "filename"},
        )
    return json_answer(metadata)
