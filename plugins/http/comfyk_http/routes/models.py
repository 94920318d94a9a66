"""`/models` and `/embeddings`: which model files there are."""

from __future__ import annotations

import asyncio
import os

from aiohttp import web
from comfyk.api import ApiError, operation

from comfyk_http.answer_descriptions import gives
from comfyk_http.json_answers import json_answer
from comfyk_http.keys import APP


@operation(
    "getModelTypes",
    "The kinds of models",
    tag="model",
    answers={200: gives("Such as `checkpoints` and `loras`", list[str])},
)
async def get_model_types(request: web.Request) -> web.Response:
    """Each is a name for `/models/{folder}`."""
    await request.app[APP].packs_loaded()
    return json_answer(list(request.app[APP].folders.kinds))


@operation(
    "getModelsByFolder",
    "The model files of one kind",
    tag="model",
    answers={
        200: gives("Paths relative to their folder", list[str]),
        404: gives("No such kind", "ErrorObject"),
    },
)
async def get_models(request: web.Request) -> web.Response:
    """As nodes take them."""
    await request.app[APP].packs_loaded()
    kind = request.match_info["folder"]
    try:
        names = await asyncio.to_thread(request.app[APP].folders.filenames, kind)
    except KeyError:
        raise ApiError(404, "not_found", f"There is no kind of models called {kind!r}.") from None
    return json_answer(names)


@operation(
    "getEmbeddings",
    "The embeddings",
    tag="node",
    answers={200: gives("Names as prompts use them", list[str])},
)
async def get_embeddings(request: web.Request) -> web.Response:
    """Without the files' extensions."""
    await request.app[APP].packs_loaded()
    names = await asyncio.to_thread(request.app[APP].folders.filenames, "embeddings")
    return json_answer([os.path.splitext(name)[0] for name in names])
