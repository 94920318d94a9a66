"""The patterns in a `filename_prefix`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from comfyk_core_nodes.images.filename import SaveError, fill_prefix, next_counter, resolve_prefix
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NOW = datetime(2026, 3, 5, 14, 7, 9)
PROMPT: dict[str, Any] = {
    "3": {
        "class_type": "KSampler",
        "inputs": {"seed": 42, "cfg": 8.0, "denoise": 0.55, "steps": ["9", 0], "model": ["4", 0], "on": True},
        "_meta": {"title": "Main pass"},
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd/v1.5\\a:b.safetensors"}},
    "5": {"class_type": "KSampler", "inputs": {"seed": 1}, "_meta": {"title": "Empty Latent Image"}},
    "6": {"class_type": "EmptyLatentImage", "inputs": {"width": 512}, "_meta": {"title": "v1.0 size"}},
    "9": {"class_type": "PrimitiveInt", "inputs": {"value": 20}},
    "10:2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat"}},
    "11": {"class_type": "Loop", "inputs": {"value": ["11", 0]}},
}


@pytest.mark.parametrize(
    ("prefix", "filled"),
    [
        ("ComfyUI", "ComfyUI"),
        ("%date:yyyy-MM-dd hh:mm:ss%", "2026-03-05 14:07:09"),
        ("%date:d.M.yy h-m-s%", "5.3.26 14-7-9"),
        ("%date:yyyy/MM%/a", "2026/03/a"),
        ("%date:yyy%", "yyy"),
        ("%year%%month%%day%_%hour%%minute%%second%", "20260305_140709"),
        ("%width%x%height%_%batch_num%", "640x480_%batch_num%"),
        ("%Main pass.seed%", "42"),
        ("%KSampler.seed%", "42"),
        ("%3.seed%", "42"),
        ("%5.seed%", "1"),
        ("%Empty Latent Image.seed%", "1"),
        ("%v1.0 size.width%", "512"),
        ("%10:2.text%", "a cat"),
        ("%KSampler.cfg%_%KSampler.denoise%_%KSampler.on%", "8_0.55_true"),
        ("%KSampler.steps%", "20"),
        ("%CheckpointLoaderSimple.ckpt_name%", "sd_v1.5_a_b.safetensors"),
        # What means nothing stays.
        ("%KSampler.model%", "%KSampler.model%"),
        ("%Loop.value%", "%Loop.value%"),
        ("%Nobody.seed%", "%Nobody.seed%"),
        ("100%_%width%", "100%_640"),
        ("%", "%"),
    ],
)
def test_fill_prefix(prefix: str, filled: str) -> None:
    assert fill_prefix(prefix, width=640, height=480, prompt=PROMPT, now=NOW) == filled


@pytest.mark.parametrize(
    ("prefix", "subfolder", "stem"),
    [
        ("a", "", "a"),
        ("a/b/c", "a/b", "c"),
        ("a\\b", "a", "b"),
        ("a//b/./c", "a/b", "c"),
        ("a/x/../b", "a", "b"),
        ("a/", "", "a"),
        ("", "", "ComfyUI"),
        ("größe 大", "", "größe 大"),
    ],
)
def test_resolve_prefix(tmp_path: Path, prefix: str, subfolder: str, stem: str) -> None:
    target = resolve_prefix(prefix, tmp_path)
    assert (target.subfolder, target.stem, target.directory) == (subfolder, stem, tmp_path / subfolder)
    assert target.directory.is_dir()


def test_a_long_value_is_cut_to_what_a_file_system_takes(tmp_path: Path) -> None:
    prompt = {"1": {"class_type": "CLIPTextEncode", "inputs": {"text": "ä" * 5000}}}
    target = resolve_prefix("%CLIPTextEncode.text%", tmp_path, prompt=prompt)
    name = target.filename(1, 0, ".png")
    (tmp_path / name).write_bytes(b"")
    assert next_counter(target) == 2


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prefix=st.text(st.sampled_from("a.%/\\: \0~") | st.characters(), max_size=12), value=st.text(max_size=5)
)
def test_any_prefix_stays_inside_or_is_refused(tmp_path: Path, prefix: str, value: str) -> None:
    root = tmp_path / "output"
    root.mkdir(exist_ok=True)
    prompt = {"1": {"class_type": "N", "inputs": {"v": value}}}
    try:
        target = resolve_prefix(prefix + "%N.v%", root, prompt=prompt)
    except SaveError as error:
        assert "filename_prefix" in str(error)
    else:
        path = target.directory / target.filename(1, 0, ".png")
        assert path.resolve().is_relative_to(root.resolve())
        path.write_bytes(b"")
        assert [child.name for child in tmp_path.iterdir()] == ["output"]
