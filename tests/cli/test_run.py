"""`comfyk run`: a workflow without a server."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from comfyk.commands.workflow_file import png_texts
from hypothesis import given
from hypothesis import strategies as st

PACK = """
class Fail:
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {})}}
    def run(self, text):
        raise RuntimeError("it broke")
NODE_CLASS_MAPPINGS = {"Fail": Fail}
"""


@pytest.fixture
def prompt() -> dict[str, Any]:
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 32, "height": 16, "batch_size": 1, "color": 255},
        },
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "a/b"}},
    }


def write(tmp_path: Path, prompt: Any) -> str:
    (tmp_path / "w.json").write_text(json.dumps(prompt))
    return "w.json"


def size(png: bytes) -> tuple[int, int]:
    return struct.unpack(">II", png[16:24])


def test_it_saves_the_picture_and_says_where(comfyk, tmp_path: Path, prompt) -> None:
    done = comfyk("run", write(tmp_path, prompt), "--set", "1.width=64", "--output", "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["out/a/b_00001_.png"]
    assert done.stderr.splitlines()[:3] == [
        "[1/3] EmptyImage (1)",
        "[2/3] ImageInvert (2)",
        "[3/3] SaveImage (3)",
    ]
    assert size((tmp_path / "out/a/b_00001_.png").read_bytes()) == (64, 16)
    assert not (tmp_path / "user" / "comfyk.db").exists()

    again = comfyk(
        "run", "out/a/b_00001_.png", "--json", "--output", "out"
    )  # the picture carries its workflow
    result = json.loads(again.stdout)
    assert again.returncode == 0 and again.stderr == "" and result["status"] == "completed"
    assert [Path(file["path"]).name for file in result["files"]] == ["b_00002_.png"]
    assert size(Path(result["files"][0]["path"]).read_bytes()) == (64, 16)


def test_standard_input_and_the_body_of_a_post_do_as_well(comfyk, prompt) -> None:
    done = comfyk("run", "-", stdin=json.dumps({"prompt": prompt, "client_id": "x"}))
    assert done.returncode == 0 and done.stdout.split() == ["output/a/b_00001_.png"]


def ui_workflow() -> dict[str, Any]:
    """`prompt` as the web UI saves it, with a note and a bypassed node in between."""
    image = {"name": "image", "type": "IMAGE"}
    return {
        "version": 0.4,
        "nodes": [
            {"id": 1, "type": "EmptyImage", "widgets_values": [32, 16, 1, 255], "outputs": [image]},
            {"id": 2, "type": "ImageInvert", "mode": 4, "inputs": [image | {"link": 1}], "outputs": [image]},
            {
                "id": 3,
                "type": "SaveImage",
                "widgets_values": ["a/b"],
                "inputs": [{"name": "images", "link": 2}],
            },
            {"id": 4, "type": "Note", "widgets_values": ["what this does"]},
        ],
        "links": [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"]],
    }


def test_a_workflow_of_the_web_ui_runs_and_is_in_its_picture(comfyk, tmp_path: Path) -> None:
    done = comfyk("run", write(tmp_path, ui_workflow()), "--set", "1.width=48")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["output/a/b_00001_.png"]
    picture = (tmp_path / "output/a/b_00001_.png").read_bytes()
    assert size(picture) == (48, 16)
    texts = png_texts(picture)
    assert set(json.loads(texts["prompt"])) == {"1", "3"}
    assert json.loads(texts["workflow"]) == ui_workflow()


def test_a_picture_with_a_workflow_alone_will_do(comfyk, tmp_path: Path) -> None:
    text = b"workflow\0" + json.dumps(ui_workflow()).encode()
    (tmp_path / "w.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"tEXt", text))
    done = comfyk("run", "w.png")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["output/a/b_00001_.png"]


def test_a_node_that_fails_is_named_with_its_inputs(comfyk, tmp_path: Path) -> None:
    (tmp_path / "custom_nodes").mkdir()
    (tmp_path / "custom_nodes" / "bad.py").write_text(PACK)
    workflow = write(tmp_path, {"7": {"class_type": "Fail", "inputs": {"text": "hello"}}})
    done = comfyk("run", workflow)
    assert done.returncode == 1
    assert "Error: Fail (7): RuntimeError: it broke\n  text = hello\n" in done.stderr
    assert json.loads(comfyk("run", workflow, "--json").stdout)["error"]["node_id"] == "7"


def test_every_validation_error_is_listed(comfyk, tmp_path: Path, prompt) -> None:
    prompt["1"]["inputs"] |= {"width": "wide", "height": -1}
    done = comfyk("run", write(tmp_path, prompt))
    assert done.returncode == 1 and done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error: EmptyImage (1): ")]
    assert len(lines) == 2 and "width" in lines[0] and "height" in lines[1]


def test_outputs_behind_errors_are_left_out_and_the_exit_code_tells(comfyk, tmp_path: Path, prompt) -> None:
    prompt["9"] = {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}
    done = comfyk("run", write(tmp_path, prompt))
    assert done.returncode == 1 and done.stdout.split() == ["output/a/b_00001_.png"]
    assert "Error: SaveImage (9): " in done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("1.widht=3", "EmptyImage (1) has no input 'widht'; did you mean 'width'?"),
        ("5.width=3", "there is no node '5'; the nodes are EmptyImage (1), ImageInvert (2), SaveImage (3)"),
        ("width=3", "expected NODE.INPUT=VALUE"),
    ],
)
def test_a_change_of_what_is_not_there_is_refused(
    comfyk, tmp_path, prompt, change: str, message: str
) -> None:
    done = comfyk("run", write(tmp_path, prompt), "--set", change)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"nodes": [], "links": []}', "Prompt has no outputs"),
        ('{"nodes": [{"id": 1}]}', "the workflow has a node without an id or a type"),
        (
            '{"nodes": [{"id": 1, "type": "NoSuchNode", "widgets_values": [1]}, {"id": 2, "type": "PreviewImage", '
            '"inputs": [{"name": "images", "link": 1}]}], "links": [[1, 1, 0, 2, 0, "IMAGE"]]}',
            "NoSuchNode (1)",
        ),
        ("{", "is not JSON"),
        ("[]", "holds no workflow"),
        ('{"1": {"inputs": {}}}', "node '1' has no class_type"),
        ('{"1": {"class_type": "NoSuchNode", "inputs": {}}}', "NoSuchNode (1)"),
        ("{}", "Prompt has no outputs"),
    ],
)
def test_what_is_no_workflow_is_refused(comfyk, text: str, message: str) -> None:
    done = comfyk("run", "-", stdin=text)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_all_kinds_of_text_chunks_are_read() -> None:
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b"\0" * 13)
    png += chunk(b"tEXt", b"a\0plain") + chunk(b"zTXt", b"b\0\0" + zlib.compress(b"small"))
    png += chunk(b"iTXt", b"c\0\0\0\0\0" + "é".encode())
    png += chunk(b"iTXt", b"d\0\1\0en\0\0" + zlib.compress("ü".encode()))
    assert png_texts(png) == {"a": "plain", "b": "small", "c": "é", "d": "ü"}


@given(st.lists(st.tuples(st.sampled_from([b"tEXt", b"zTXt", b"iTXt", b"IDAT"]), st.binary(max_size=30))))
def test_damaged_pictures_are_read_without_an_error(chunks: list[tuple[bytes, bytes]]) -> None:
    png = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in chunks)
    assert png_texts(png[:-7]).keys() <= png_texts(png).keys()
