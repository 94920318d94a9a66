"""`/models` and `/embeddings`: which model files there are."""

from __future__ import annotations

import asyncio
import os

from aiohttp import web

from comfyk_http.answers import json_answer
from comfyk_http.errors import ApiError
from comfyk_http.keys import APP


async def get_model_types(request: web.Request) -> web.Response:
    """The kinds of models, such as `checkpoints` and `loras`."""
    return json_answer(list(request.app[APP].folders.kinds))


async def get_models(request: web.Request) -> web.Response:
    """The files of one kind, as paths relative to their folder."""
    kind = request.match_info["folder"]
    try:
        names = await asyncio.to_thread(request.app[APP].folders.filenames, kind)
    except KeyError:
        raise ApiError(404, "not_found", f"There is no kind of models called {kind!r}.") from None
    return json_answer(names)


async def get_embeddings(request: web.Request) -> web.Response:
    """The names of the embeddings, as prompts use them: without extension."""
    names = await asyncio.to_thread(request.app[APP].folders.filenames, "embeddings")
    return json_answer([os.path.splitext(name)[0] for name in names])
