"""The schemas say what ComfyUI 0.33's `object_info` says (`facts.json`; without its tooltips and descriptions)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from comfyk.app import App

FACTS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "facts.json").read_text())


def without_tooltips(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_tooltips(inner) for key, inner in value.items() if key != "tooltip"}
    return [without_tooltips(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", FACTS)
def test_schema_is_the_reference(app: App, name: str) -> None:
    for file in ("picture.png", "it.latent"):
        (app.folders.input / file).write_bytes(b"")
    facts = FACTS[name]
    info = json.loads(json.dumps(app.nodes[name].info()))
    for key in facts.keys() - {"inputs", "hidden"}:
        assert info.get(key) == facts[key], key  # an essentials_category of none is left out
    assert list(info["input"].get("hidden", {})) == facts.get("hidden", [])
    for group in ("required", "optional"):
        names = [name for name, (where, _, _) in facts["inputs"].items() if where == group]
        assert info["input_order"].get(group, []) == names
    for input_name, (group, expected_type, expected_options) in facts["inputs"].items():
        io_type, *rest = without_tooltips(info["input"][group][input_name])
        options = rest[0] if rest else {}
        if expected_type == "FILES":
            expected_type = ["it.latent" if name == "LoadLatent" else "picture.png"]
        assert io_type == expected_type
        assert options == expected_options
    assert info["description"]


def test_what_comfyui_has_in_v1_form_is_written_so(app: App) -> None:
    """Without options where there are none, and hidden inputs by their bare kind. Clients read both forms by hand."""
    read = {
        name: app.nodes[name].info()["input"]
        for name in ("ImageScale", "SaveImage", "PreviewAny", "VAEDecode")
    }
    assert json.loads(json.dumps(read["ImageScale"]["required"]["image"])) == ["IMAGE"]
    assert json.loads(json.dumps(read["ImageScale"]["required"]["crop"])) == [["disabled", "center"]]
    assert read["SaveImage"]["hidden"] == {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}
    assert "hidden" not in read["PreviewAny"] and "hidden" not in read["VAEDecode"]
    typed = app.nodes["SaveImageAdvanced"].info()["input"]
    assert json.loads(json.dumps(typed["hidden"])) == {
        "prompt": ["PROMPT"],
        "extra_pnginfo": ["EXTRA_PNGINFO"],
    }


def test_all_nodes_are_registered(app: App) -> None:
    """Those of other folders are in facts of their own."""
    known: set[str] = set()
    for path in Path(__file__).parent.rglob("facts*.json"):
        known |= set(json.loads(path.read_text()))
    assert set(app.nodes.names()) == known


def test_registering_imports_nothing_heavy() -> None:
    code = (
        "import comfyk_core_nodes.plugin as plugin, sys\n"
        "from comfyk.nodes.registry import NodeRegistry\n"
        "class App: nodes = NodeRegistry()\n"
        "plugin.comfyk_register_nodes(App)\n"
        "assert plugin.comfyk_system_stats()['pytorch_version']\n"
        "assert plugin.comfyk_device_stats()[0]['type'] == 'cpu'\n"
        "print(sorted({'torch', 'numpy', 'PIL'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
