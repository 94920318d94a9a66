"""The list of templates: comfyk's own first, then those of the packages that run here."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from comfyk import hookimpl
from comfyk.app import App
from comfyk_core_nodes.nodes import NODES
from comfyk_frontend import serving
from PIL import Image


class CoreNodes:
    """The nodes alone, without torch."""

    app: App

    @hookimpl
    def comfyk_register_nodes(self, app: App) -> None:
        self.app = app
        for node in NODES:
            app.nodes.add(node)

    @hookimpl
    def comfyk_known_model_files(self) -> list[str]:
        return ["*SDXL*", "known-?.safetensors"]


class Foreign:
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "run"

    def run(self) -> None: ...


Categories = list[dict[str, Any]]


async def listed(client: Any, name: str = "index.json") -> Categories:
    async with client.get(f"/templates/{name}") as response:
        assert response.status == 200
        return await response.json()


def names(categories: Categories) -> list[str]:
    return [template["name"] for category in categories for template in category["templates"]]


def checkpoint(base: Path, name: str) -> None:
    path = base / "base/models/checkpoints" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


async def test_the_starters_stand_first_with_workflow_and_picture(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    checkpoint(tmp_path, "comfyk-demo.safetensors")
    client = await start(plugins=[CoreNodes()])
    for index in ("index.json", "index.fr.json", "index.zh-TW.json"):
        [first, *_] = categories = await listed(client, index)
        assert [name.removeprefix("starter_") for name in names([first])] == [
            "demo", "sd15", "sdxl", "img2img", "inpaint", "lora", "controlnet", "upscale",
        ]  # fmt: skip
    every = [template for category in categories for template in category["templates"]]
    by_use = sorted(every, key=lambda one: -one["usage"])
    assert by_use[: len(first["templates"])] == first["templates"]
    for template in first["templates"]:
        async with client.get(f"/templates/{template['name']}.json") as response:
            assert (await response.json())["nodes"]
        async with client.get(f"/api/templates/{template['name']}-1.webp") as response:
            picture = await response.read()
        assert len(picture) < 30_000
        assert Image.open(io.BytesIO(picture)).format == "WEBP"


async def test_what_cannot_run_is_not_listed(start: Callable[..., Any]) -> None:
    client = await start(plugins=[CoreNodes()])
    categories = await listed(client)
    assert "starter_demo" not in names(categories)  # its checkpoint is nowhere to be had
    packaged = names(categories[1:])
    assert 0 < len(packaged) < 100
    assert all(category["templates"] for category in categories)
    for name in packaged:
        async with client.get(f"/templates/{name}.json") as response:
            assert "API" not in json.dumps([node["type"] for node in (await response.json())["nodes"]])
    # What is left out is still there for those who ask for it by name.
    async with client.get("/templates/image_z_image_turbo.json") as response:
        assert response.status == 200


async def test_all_of_them_with_a_mark(start: Callable[..., Any]) -> None:
    client = await start(plugins=[CoreNodes()], frontend__templates="all", frontend__starters=False)
    categories = await listed(client)
    every = {template["name"]: template for category in categories for template in category["templates"]}
    assert len(every) > 500
    assert not any(name.startswith("starter_") for name in every)
    marked = every["image_z_image_turbo"]
    assert marked["tags"][0] == "Does not run here"
    assert marked["description"].startswith("Does not run here: it needs the node")


def node(id: int, type: str, values: Any = (), mode: int = 0, **more: Any) -> dict[str, Any]:
    return {"id": id, "type": type, "mode": mode, "widgets_values": list(values), "properties": {}, **more}


def flow(*nodes: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"nodes": list(nodes), "links": [], **more}


def named(folder: str, name: str) -> dict[str, Any]:
    return {"properties": {"models": [{"directory": folder, "name": name, "url": "https://example.org/x"}]}}


EMPTY = node(1, "EmptyLatentImage", [64, 64, 1])
SUBGRAPHS = {"definitions": {"subgraphs": [{"id": "sub", "name": "S", "nodes": [node(1, "Gone")]}]}}
TEMPLATES: dict[str, tuple[Any, str | None]] = {
    "runs": (flow(EMPTY, node(2, "MarkdownNote", ["hello"])), None),
    "missing": (flow(EMPTY, node(2, "Gone"), node(3, "Gone2")), "the nodes Gone, Gone2, which are not here"),
    "missing_below": (flow(EMPTY, node(2, "sub"), **SUBGRAPHS), "the node Gone, which is not here"),
    "muted": (flow(EMPTY, node(2, "Gone", mode=2), node(3, "sub", mode=4), **SUBGRAPHS), None),
    "known": (flow(node(1, "CheckpointLoaderSimple", ["sub/Any_SDXL_v2.safetensors"])), None),
    "unknown": (
        flow(node(1, "CheckpointLoaderSimple", ["other.safetensors"])),
        "the model other.safetensors, of a family that is not here",
    ),
    "known_by_note": (flow(node(1, "EmptyLatentImage", [], **named("checkpoints", "known-1.safetensors"))), None),
    "unknown_by_note": (
        flow(node(1, "EmptyLatentImage", [], **named("diffusion_models", "known-12.safetensors"))),
        "the model known-12.safetensors, of a family that is not here",
    ),
    "lora": (flow(node(1, "EmptyLatentImage", [], **named("loras", "any.safetensors"))), None),
    "choice": (
        flow(node(1, "CLIPLoader", ["any.safetensors", "of_tomorrow", "default"])),
        "CLIPLoader to offer 'of_tomorrow' as its type",
    ),
    "group": (flow(node(1, "workflow>mine")), "a form that can be run"),
    "empty": (flow(node(1, "Note", ["nothing"])), "nodes that run"),
    "no_workflow": ([1, 2], "a form that can be run"),
    "broken": ("{", "a workflow that can be read"),
}  # fmt: skip


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of templates as the packages have them, with TEMPLATES in it."""
    folder = tmp_path / "packaged"
    folder.mkdir()
    for name, (workflow, _) in TEMPLATES.items():
        text = workflow if isinstance(workflow, str) else json.dumps(workflow)
        (folder / f"{name}.json").write_text(text)
    listed: list[Any] = [{"name": name, "description": "Text."} for name in (*TEMPLATES, "no_file")]
    (folder / "index.json").write_text(
        json.dumps([{"title": "All", "templates": [*listed, "none", {}]}, {"title": "None"}, 3])
    )
    monkeypatch.setattr(serving, "_template_folders", lambda: [folder])
    return folder


@pytest.mark.usefixtures("packaged")
async def test_what_runs_is_told_by_nodes_choices_and_models(start: Callable[..., Any]) -> None:
    client = await start(plugins=[CoreNodes()], frontend__starters=False)
    running = {name for name, (_, missing) in TEMPLATES.items() if missing is None}
    assert set(names(await listed(client))) == running


@pytest.mark.usefixtures("packaged")
async def test_what_is_missing_is_said(start: Callable[..., Any]) -> None:
    client = await start(plugins=[CoreNodes()], frontend__starters=False, frontend__templates="all")
    [category] = await listed(client)
    told = {template["name"]: template["description"] for template in category["templates"]}
    for name, (_, missing) in TEMPLATES.items():
        if missing is None:
            assert told[name] == "Text."
        else:
            assert told[name].startswith(f"Does not run here: it needs {missing}")
            assert told[name].endswith(" Text.")
    assert "its workflow, which is not here" in told["no_file"]


@pytest.mark.usefixtures("packaged")
async def test_the_list_grows_with_the_nodes(start: Callable[..., Any]) -> None:
    plugin = CoreNodes()
    client = await start(plugins=[plugin], frontend__starters=False)
    assert "missing_below" not in names(await listed(client))
    async with client.get("/templates/index.json") as response:
        tag = response.headers["ETag"]
    async with client.get("/templates/index.json", headers={"If-None-Match": tag}) as response:
        assert response.status == 304
    plugin.app.nodes.add(Foreign, name="Gone")
    async with client.get("/templates/index.json", headers={"If-None-Match": tag}) as response:
        assert "missing_below" in names(await response.json())


async def test_a_list_that_cannot_be_read_leaves_the_starters(
    start: Callable[..., Any], packaged: Path
) -> None:
    (packaged / "index.json").write_text("[")
    client = await start(plugins=[CoreNodes()])
    [own] = await listed(client)
    assert own["title"] == "Start here"


async def test_without_packages_there_are_the_starters(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_template_folders", lambda: [])
    client = await start(plugins=[CoreNodes()])
    assert len(await listed(client)) == 1
    async with client.get("/templates/index.de.json") as response:
        assert response.status == 404  # the UI takes the English one then


async def first_visit(client: Any) -> str | None:
    async with client.get("/") as response:
        page = await response.text()
    _, found, rest = page.partition("/templates/first_visit.js?template=")
    return rest.partition('"')[0] if found else None


async def test_a_new_browser_is_led_to_the_first_that_runs(start: Callable[..., Any], tmp_path: Path) -> None:
    client = await start(plugins=[CoreNodes()])
    assert await first_visit(client) == "starter_sd15"
    checkpoint(tmp_path, "comfyk-demo.safetensors")
    assert await first_visit(client) == "starter_demo"
    async with client.get("/templates/first_visit.js") as response:
        assert response.headers["Content-Type"].startswith("text/javascript")


async def test_no_starter_without_its_nodes_or_where_none_are_wanted(start: Callable[..., Any]) -> None:
    client = await start()
    assert await first_visit(client) is None
    client = await start(plugins=[CoreNodes()], frontend__starters=False)
    assert await first_visit(client) is None


@pytest.mark.parametrize("there", [None, "mine.png"])
async def test_their_pictures_come_into_an_empty_input_folder(
    start: Callable[..., Any], tmp_path: Path, there: str | None
) -> None:
    folder = tmp_path / "base/input"
    if there:
        folder.mkdir(parents=True)
        (folder / there).touch()
    await start(plugins=[CoreNodes()])
    found = sorted(path.name for path in folder.iterdir())
    assert found == ([there] if there else ["comfyk-example-hole.png", "comfyk-example.png"])
