"""The starter workflows: comfyk's own templates, which stand first, and one of which opens at the first visit.

They lie in `starters/`: `category.json`, a category of the web UI's list of templates; for each a workflow as the UI
saves it, `NAME.json`, and a picture, `NAME-1.webp`; in `starters/input` the pictures that they load.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfyk.atomic import write_file
from comfyk.wire import loads
from comfyk.workflows import to_prompt

from comfyk_frontend.requirements import models_of

if TYPE_CHECKING:
    from comfyk import App

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent / "starters"
FIRST = ("starter_demo", "starter_sd15")
"""What a new browser opens: the first of them that is offered."""


@cache
def workflow(name: str) -> dict[str, Any]:
    """Do not change it."""
    return loads((FOLDER / f"{name}.json").read_bytes())


def category(app: App) -> dict[str, Any] | None:
    """The starters that are offered, as a category of the list of templates; None without any."""
    own = loads((FOLDER / "category.json").read_bytes())
    own["templates"] = [
        {"mediaType": "image", "mediaSubtype": "webp", "openSource": True, **template}
        for template in own["templates"]
        if is_offered(app, template["name"])
    ]
    return own if own["templates"] else None


def first(app: App) -> str | None:
    """The workflow that a new browser opens."""
    return next((name for name in FIRST if is_offered(app, name)), None)


def is_offered(app: App, name: str) -> bool:
    """Whether its nodes are registered, and its checkpoint is there or says where it can be had."""
    needs = _needs(name)
    return all(one in app.nodes for one in needs.nodes) and all(
        one in needs.for_download or app.folders.find("checkpoints", one) is not None
        for one in needs.checkpoints
    )


@dataclass(frozen=True, slots=True)
class _Needs:
    nodes: frozenset[str]
    checkpoints: frozenset[str]
    for_download: frozenset[str]


@cache
def _needs(name: str) -> _Needs:
    # Without schemas the inputs have the names that the workflow says, which is enough for a node with one input.
    nodes = to_prompt(workflow(name), lambda _: None).values()
    return _Needs(
        frozenset(node["class_type"] for node in nodes),
        frozenset(node["inputs"]["ckpt_name"] for node in nodes if "ckpt_name" in node["inputs"]),
        frozenset(model.name for model in models_of(workflow(name)) if model.url is not None),
    )


def bring_pictures(app: App) -> None:
    """Put the pictures that the starters load into an input folder that has no file yet."""
    if "LoadImage" not in app.nodes:
        return
    folder = app.folders.input
    try:
        if folder.is_dir() and any(path for path in folder.iterdir() if not path.name.startswith(".")):
            return
        for picture in sorted((FOLDER / "input").iterdir()):
            write_file(folder / picture.name, picture.read_bytes())
    except OSError as error:
        log.warning("the pictures of the starter workflows could not be put into %s: %s", folder, error)
