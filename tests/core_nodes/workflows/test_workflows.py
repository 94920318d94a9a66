"""The workflows of `docs/workflows`, from files to PNGs, on tiny random models."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

Make = Callable[..., list[Image.Image]]
Workflow = Callable[..., dict[str, Any]]

SIZES = {
    "txt2img": (64, 64),
    "img2img": (64, 48),
    "inpaint": (64, 48),
    "lora": (64, 64),
    "controlnet": (64, 64),
    "upscale": (256, 192),
    "sdxl_base_refiner": (64, 64),
}


@pytest.mark.parametrize("name", SIZES)
def test_makes_a_picture_that_carries_its_prompt(make: Make, workflow: Workflow, name: str) -> None:
    graph = workflow(name)
    (picture,) = make(graph)
    assert picture.size == SIZES[name]
    assert json.loads(picture.info["prompt"]) == graph
    assert len(set(picture.convert("L").tobytes())) > 10


def test_links_by_number(make: Make, workflow: Workflow) -> None:
    """`haiven_txt2img.json` is as one deployment documents it: its links say 5 where others say "5"."""
    graph = workflow("haiven_txt2img")
    assert graph["6"]["inputs"]["images"] == [5, 0]
    (picture,) = make(graph)
    by_text = workflow("haiven_txt2img")
    for node in by_text.values():
        for name, value in node["inputs"].items():
            if isinstance(value, list):
                node["inputs"][name] = [str(value[0]), value[1]]
    (same,) = make(by_text)
    assert picture.tobytes() == same.tobytes()
    assert json.loads(picture.info["prompt"]) == by_text


@pytest.mark.parametrize("name", ["txt2img", "sdxl_base_refiner"])
def test_the_seed_decides(make: Make, workflow: Workflow, name: str) -> None:
    key = "noise_seed" if name == "sdxl_base_refiner" else "seed"
    first, again, other = (make(workflow(name, **{key: seed}))[0].tobytes() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_lora_of_strength_0_changes_nothing(make: Make, workflow: Workflow) -> None:
    def picture(strength: float) -> bytes:
        return make(workflow("lora", strength_model=strength, strength_clip=strength))[0].tobytes()

    plain = workflow("lora")
    for node in plain.values():
        for key, value in node["inputs"].items():
            if value in (["2", 0], ["2", 1]):
                node["inputs"][key] = ["1", value[1]]
    del plain["2"]
    without = make(plain)[0].tobytes()
    assert picture(0.0) == without
    assert picture(1.0) != without


def test_a_batch_is_its_pictures_one_by_one(make: Make, workflow: Workflow) -> None:
    both = make(workflow("txt2img", batch_size=2))
    assert len(both) == 2
    assert both[0].tobytes() != both[1].tobytes()
    (alone,) = make(workflow("txt2img"))
    worst = max(abs(a - b) for a, b in zip(alone.tobytes(), both[0].tobytes(), strict=True))
    assert worst <= 1


def test_a_second_job_loads_nothing(make: Make, workflow: Workflow, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfyk_core_nodes.families.checkpoint as checkpoint

    opened = []
    load = checkpoint.load_torch_file
    monkeypatch.setattr(checkpoint, "load_torch_file", lambda path: opened.append(path) or load(path))
    make(workflow("txt2img", seed=1), workflow("txt2img", seed=2))
    assert len(opened) == 1
