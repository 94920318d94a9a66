"""`/packs`: which packs there are. `/workflow_templates`, `/i18n` and the like: what they bring beside nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiohttp import web
from comfyk import App
from comfyk.api import ApiError, file_answer, operation
from comfyk.packs import pack_as_dict

from comfyk_http import pack_files
from comfyk_http.answer_descriptions import gives, sends
from comfyk_http.json_answers import json_answer
from comfyk_http.keys import APP


def _packs(app: App) -> list[Path]:
    return pack_files.folders_of(app.packs.infos())


def _blueprint_folders(app: App) -> Sequence[Path]:
    added = [path for paths in app.hook.comfyk_register_blueprints() for path in paths]
    return [app.folders.base / "blueprints", *added]


@operation(
    "listPacks",
    "The node packs, and what became of each",
    tag="extensions",
    answers={200: gives("In the order in which they were loaded", "PacksList")},
)
async def list_packs(request: web.Request) -> web.Response:
    """A pack that failed has its `reason` in one line, and in `error` the traceback."""
    await request.app[APP].packs_loaded()
    return json_answer({"packs": [pack_as_dict(info) for info in request.app[APP].packs.infos()]})


@operation(
    "getWorkflowTemplates",
    "The example workflows of packs",
    tag="extensions",
    answers={200: gives("Names of workflows by pack", dict[str, list[str]])},
)
async def get_templates(request: web.Request) -> web.Response:
    """Each is served as `/workflow_templates/{pack}/{name}.json`."""
    await request.app[APP].packs_loaded()
    return json_answer(await asyncio.to_thread(pack_files.templates, _packs(request.app[APP])))


@operation(
    "getWorkflowTemplate",
    "A file among a pack's example workflows",
    tag="extensions",
    answers={200: sends("The file", "application/json", "*/*"), 404: gives("No such file", "ErrorObject")},
)
async def get_template_file(request: web.Request) -> web.StreamResponse:
    """A workflow, or the picture of one."""
    await request.app[APP].packs_loaded()
    info = request.match_info
    packs = _packs(request.app[APP])
    path = await asyncio.to_thread(pack_files.template_file, packs, info["pack"], info["path"])
    if path is None:
        raise ApiError(404, "not_found", f"There is no file {request.path}.")
    return file_answer(request, path, headers={"Cache-Control": "no-cache"})


@operation(
    "getI18n",
    "The translations of packs",
    tag="extensions",
    answers={200: gives("By language", dict[str, Any])},
)
async def get_translations(request: web.Request) -> web.Response:
    """From the `locales` folders of all packs."""
    await request.app[APP].packs_loaded()
    return json_answer(await asyncio.to_thread(pack_files.translations, _packs(request.app[APP])))


async def _blueprints(app: App) -> dict[str, pack_files.Blueprint]:
    await app.packs_loaded()
    return await asyncio.to_thread(pack_files.blueprints, _packs(app), _blueprint_folders(app))


@operation(
    "getGlobalSubgraphs",
    "The subgraph blueprints",
    tag="subgraph",
    answers={200: gives("Blueprints by id, without their data", "Subgraphs")},
)
async def get_subgraphs(request: web.Request) -> web.Response:
    """Of packs (`subgraphs/*.json`) and of the server."""
    found = await _blueprints(request.app[APP])
    return json_answer({id: blueprint.info() for id, blueprint in found.items()})


@operation(
    "getGlobalSubgraph",
    "One subgraph blueprint",
    tag="subgraph",
    answers={200: gives("The blueprint", "SubgraphData"), 404: gives("No such blueprint", "ErrorObject")},
)
async def get_subgraph(request: web.Request) -> web.Response:
    """With its data."""
    blueprint = (await _blueprints(request.app[APP])).get(request.match_info["id"])
    try:
        text = await asyncio.to_thread(blueprint.path.read_text, "utf-8") if blueprint else None
    except (OSError, ValueError):
        text = None
    if blueprint is None or text is None:
        raise ApiError(404, "not_found", "There is no such subgraph.")
    return json_answer({**blueprint.info(), "data": text})


@operation(
    "getNodeReplacements",
    "What stands in for nodes that are gone",
    tag="node",
    answers={200: gives("Replacements by the old node's name", dict[str, Any])},
)
async def get_node_replacements(request: web.Request) -> web.Response:
    """The server applies them to prompts, the web UI to workflows."""
    await request.app[APP].packs_loaded()
    replacements = request.app[APP].nodes.replacements
    return json_answer({old: [one.as_dict() for one in new] for old, new in replacements.items()})
