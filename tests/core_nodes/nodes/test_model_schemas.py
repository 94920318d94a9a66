"""The schemas say what the `object_info` of ComfyUI 0.33 says (`facts_models.json`; tooltips and such are our own)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from comfyk.app import App

pytestmark = pytest.mark.usefixtures("in_a_job")

FACTS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "facts_models.json").read_text())
KINDS = {
    "ckpt_name": "checkpoints",
    "config_name": "configs",
    "clip_name": "text_encoders",
    "clip_name1": "text_encoders",
    "clip_name2": "text_encoders",
    "unet_name": "diffusion_models",
    "lora_name": "loras",
    "style_model_name": "style_models",
    "control_net_name": "controlnet",
    "gligen_name": "gligen",
    "model_name": "upscale_models",
}


@pytest.mark.parametrize("name", FACTS)
def test_schema_is_the_reference(app: App, name: str) -> None:
    facts = FACTS[name]
    info = app.nodes[name].info()
    for key in facts.keys() - {"inputs"}:
        assert info.get(key) == facts[key], key
    groups: dict[str, list[str]] = {}
    for input_name, (group, expected_type, expected) in facts["inputs"].items():
        groups.setdefault(group, []).append(input_name)
        spec = info["input"][group][input_name]
        io_type, options = spec[0], dict(spec[1]) if len(spec) > 1 else {}
        options.pop("tooltip", None)
        if expected_type == "FILES":
            assert io_type == []
            expected_type = io_type
        if expected.get("options") == "FILES":
            assert options["options"] == []
            expected = {**expected, "options": []}
        assert io_type == expected_type, input_name
        assert options == expected, input_name
    assert {group: list(names) for group, names in info["input_order"].items() if names} == groups
    assert info["description"]


@pytest.mark.parametrize("name", [name for name, facts in FACTS.items() if facts["inputs"].keys() & KINDS])
def test_model_files_are_listed(app: App, name: str) -> None:
    for kind in app.folders.kinds:
        for path in app.folders.paths(kind)[:1]:
            path.mkdir(parents=True, exist_ok=True)
            for suffix in (".safetensors", ".yaml"):
                (path / f"{kind}{suffix}").write_bytes(b"")
    inputs = app.nodes[name].info()["input"]["required"]
    for input_name in inputs.keys() & KINDS.keys():
        kind = "clip_vision" if name == "CLIPVisionLoader" else KINDS[input_name]
        io_type, *options = inputs[input_name]
        names = options[0]["options"] if io_type == "COMBO" else io_type
        assert names == [kind + (".yaml" if kind == "configs" else ".safetensors")]
