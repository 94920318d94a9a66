"""Loads packs of another kind: a folder with `*.recipe.json` files, each a node that fills in a template.

custom_nodes/greetings/hello.recipe.json:  {"node": "Hello", "text": "Hello, {name}!", "inputs": ["name"]}
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from comfyk import App, hookimpl, io
from comfyk.packs import PackInfo

SUFFIX = ".recipe.json"


@hookimpl
def comfyk_load_pack(app: App, path: Path, pack: PackInfo) -> bool | None:
    """Packs with recipes are loaded here, all others by the next loader. An exception fails the pack alone."""
    recipes = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else []
    if not recipes:
        return None
    for file in recipes:
        app.nodes.add(_node(json.loads(file.read_text(encoding="utf-8"))), source=pack.source)
    return True


@hookimpl
def comfyk_veto_pack(path: Path) -> str | None:
    """A recipe may not hide in a pack that also runs code."""
    if path.is_dir() and (path / "__init__.py").exists() and any(path.glob(f"*{SUFFIX}")):
        return f"it has both Python code and recipes; remove __init__.py, or its {SUFFIX} files"
    return None


def _node(recipe: dict[str, Any]) -> type[io.ComfyNode]:
    """Raises KeyError for a recipe that lacks something."""
    name, text, inputs = recipe["node"], recipe["text"], recipe["inputs"]

    class Recipe(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            return io.Schema(
                node_id=name,
                category="recipes",
                inputs=[io.String.Input(one) for one in inputs],
                outputs=[io.String.Output()],
                is_output_node=True,
            )

        @classmethod
        def execute(cls, **values: str) -> io.NodeOutput:
            filled = text.format(**values)
            return io.NodeOutput(filled, ui={"text": [filled]})

    return Recipe
