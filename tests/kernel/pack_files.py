"""Node packs for tests, and apps that find them."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from comfyk.app import App
from comfyk.plugins import Plugins
from comfyk.settings import load_settings

V1 = """
class Node:
    RETURN_TYPES = ("INT",)
    FUNCTION = "run"
    CATEGORY = "test"
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}
    def run(self):
        return (1,)
NODE_CLASS_MAPPINGS = {"$": Node}
NODE_DISPLAY_NAME_MAPPINGS = {"$": "The $"}
"""
V3 = """
from comfyk import io
class Node(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="$", category="test", inputs=[], outputs=[])
    @classmethod
    def execute(cls):
        return io.NodeOutput()
class Extension:
    async def on_load(self):
        pass
    async def get_node_list(self):
        return [Node]
async def comfy_entrypoint():
    return Extension()
"""


def pack(base: Path, name: str, code: str = "", **files: str) -> Path:
    path = base / "custom_nodes" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith((".py", ".py.disabled")):
        path.write_text(code)
        return path
    path.mkdir()
    for file, text in {"__init__.py": code, **files}.items():
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        (path / file).write_text(textwrap.dedent(text))
    return path


def v1(name: str) -> str:
    return V1.replace("$", name)


def v3(name: str) -> str:
    return V3.replace("$", name)


def make_app(base: Path, plugins: Plugins | None = None, **overrides: Any) -> App:
    plugins = plugins or Plugins()
    settings = load_settings(plugins, overrides={"folders.base": base, **overrides})
    return App(settings, plugins)


async def load(base: Path, plugins: Plugins | None = None, **overrides: Any) -> App:
    app = make_app(base, plugins, **overrides)
    app.register()
    return app


def states(app: App) -> dict[str, str]:
    return {info.name: info.state for info in app.packs.infos()}
