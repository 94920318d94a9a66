"""Packs of another kind, loaded by a plugin: at the start and while the server runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from comfyk import App, Plugins
from comfyk.settings import load_settings


def pack(base: Path, name: str, recipe: object) -> Path:
    folder = base / "custom_nodes" / name
    folder.mkdir(parents=True)
    (folder / "hello.recipe.json").write_text(json.dumps(recipe))
    return folder


HELLO = {"node": "Hello", "text": "Hello, {name}!", "inputs": ["name"]}


@pytest.fixture
def plugins(installed, monkeypatch: pytest.MonkeyPatch) -> Plugins:
    monkeypatch.syspath_prepend(str(installed("recipes")))
    return Plugins.discover(disabled=["core-nodes", "http", "storage", "frontend"])


async def say(app: App, name: str) -> dict:
    prompt = {"1": {"class_type": "Hello", "inputs": {"name": name}}}
    submission = await app.jobs.submit(prompt)
    return (await app.jobs.wait(submission.job.id)).outputs


async def test_recipes_are_nodes(tmp_path: Path, plugins: Plugins) -> None:
    pack(tmp_path, "greetings", HELLO)
    pack(tmp_path, "broken", {"node": "Half"})
    mixed = pack(tmp_path, "mixed", HELLO)
    (mixed / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}")
    async with App(load_settings(plugins, overrides={"folders.base": tmp_path}), plugins) as app:
        states = {info.name: info for info in app.packs.infos()}
        assert {name: info.state for name, info in states.items()} == {
            "greetings": "loaded", "broken": "failed", "mixed": "disabled",
        }  # fmt: skip
        assert (
            "KeyError" in states["broken"].error and "both Python code and recipes" in states["mixed"].error
        )
        assert await say(app, "you") == {"1": {"text": ["Hello, you!"]}}


async def test_a_pack_of_recipes_comes_and_goes_while_the_server_runs(
    tmp_path: Path, plugins: Plugins
) -> None:
    async with App(load_settings(plugins, overrides={"folders.base": tmp_path}), plugins) as app:
        folder = pack(tmp_path, "greetings", HELLO)
        info = await app.packs.load_pack(folder)
        assert (info.state, info.nodes) == ("loaded", ["Hello"])
        assert await say(app, "again") == {"1": {"text": ["Hello, again!"]}}
        await app.packs.unload("greetings")
        assert "Hello" not in app.nodes
