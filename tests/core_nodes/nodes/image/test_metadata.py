"""What is in saved files besides pictures, read back as the web UI does when a file is dropped on it."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from comfyk.app import App
from safetensors import safe_open

Run = Callable[..., Any]

PROMPT = {"1": {"class_type": "Text", "inputs": {"text": 'a: ä 日本 \U0001f600 \\ "q"', "cfg": 7.5}}}
WORKFLOW = {"nodes": [{"id": 1, "title": "日本: x"}], "links": [], "version": 0.4}
EXTRA = {"workflow": WORKFLOW, "other": [1, None]}


def from_png(data: bytes) -> dict[str, str]:
    """Chunks of text: a name, a zero byte, the text. It looks at no check sums."""
    assert data.startswith(b"\x89PNG")
    found, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if data[at + 4 : at + 8] in (b"tEXt", b"comf"):
            name, _, text = data[at + 8 : at + 8 + length].partition(b"\0")
            found[name.decode("latin-1")] = text.decode("utf-8")
        at += 12 + length
    return found


def from_webp(data: bytes) -> dict[str, str]:
    """All ASCII tags of the first EXIF directory, as `name:text`."""
    assert data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    at = 12
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at + 4)
        if data[at : at + 4] == b"EXIF":
            exif = data[at + 8 : at + 8 + length].removeprefix(b"Exif\0\0")
            return dict(tag.split(":", 1) for tag in ascii_tags(exif))
        at += 8 + length + length % 2
    return {}


def ascii_tags(exif: bytes) -> list[str]:
    order = "<" if exif[:2] == b"II" else ">"
    (directory,) = struct.unpack_from(f"{order}I", exif, 4)
    (count,) = struct.unpack_from(f"{order}H", exif, directory)
    texts = []
    for number in range(count):
        _, kind, length, offset = struct.unpack_from(f"{order}HHII", exif, directory + 2 + 12 * number)
        assert kind == 2, "texts of a few bytes would stand in place of the offset"
        assert length > 4
        texts.append(exif[offset : offset + length - 1].decode("utf-8"))
    return texts


SAVED: dict[str, tuple[str, dict[str, Any], Callable[[bytes], dict[str, str]]]] = {
    "SaveImage": ("x_00001_.png", {}, from_png),
    "SaveAnimatedPNG": ("x_00001_.png", {"fps": 6.0, "compress_level": 4}, from_png),
    "SaveAnimatedWEBP": (
        "x_00001_.webp",
        {"fps": 6.0, "lossless": True, "quality": 80, "method": "default"},
        from_webp,
    ),
    "SaveImageAdvanced": (
        "x_00001.png",
        {"format": "png", "format.bit_depth": "16-bit", "format.input_color_space": "sRGB"},
        from_png,
    ),
}


@pytest.fixture(params=[(2, 16, 24, 3), (1, 16, 16, 4), (3, 17, 23, 3)])
def images(request: pytest.FixtureRequest) -> torch.Tensor:
    return torch.rand(request.param, generator=torch.Generator().manual_seed(0))


def save(app: App, run: Run, node: str, images: torch.Tensor, **hidden: Any) -> dict[str, str]:
    name, values, read = SAVED[node]
    run(node, images=images, filename_prefix="x", **values, **hidden)
    return read((app.folders.output / name).read_bytes())


@pytest.mark.parametrize("node", SAVED)
def test_prompt_and_workflow(app: App, run: Run, images: torch.Tensor, node: str) -> None:
    found = save(app, run, node, images, prompt=PROMPT, extra_pnginfo=EXTRA)
    assert {name: json.loads(text) for name, text in found.items()} == {"prompt": PROMPT, **EXTRA}


@pytest.mark.parametrize("node", SAVED)
@pytest.mark.parametrize(
    ("hidden", "names"),
    [
        ({}, set()),
        ({"prompt": PROMPT}, {"prompt"}),
        ({"extra_pnginfo": {"workflow": WORKFLOW}}, {"workflow"}),
    ],
)
def test_what_there_is(app: App, run: Run, node: str, hidden: dict[str, Any], names: set[str]) -> None:
    assert set(save(app, run, node, torch.zeros(2, 8, 8, 3), **hidden)) == names


@pytest.mark.parametrize("node", SAVED)
def test_none_where_the_settings_say_so(app: App, run: Run, node: str) -> None:
    app.settings.section("metadata").disable = True
    assert save(app, run, node, torch.zeros(2, 8, 8, 3), prompt=PROMPT, extra_pnginfo=EXTRA) == {}


def test_places_in_a_webp_file(app: App, run: Run) -> None:
    """The prompt is in the tag of the camera's model, all else from that of its maker downwards."""
    from PIL import Image

    save(app, run, "SaveAnimatedWEBP", torch.zeros(2, 8, 8, 3), prompt=PROMPT, extra_pnginfo=EXTRA)
    with Image.open(app.folders.output / "x_00001_.webp") as picture:
        starts = {tag: text.split(":", 1)[0] for tag, text in picture.getexif().items()}
    assert starts == {0x0110: "prompt", 0x010F: "workflow", 0x010E: "other"}


def test_a_latent(app: App, run: Run, out: Run) -> None:
    samples = torch.randn(2, 4, 3, 5)
    run(
        "SaveLatent", samples={"samples": samples, "noise_mask": torch.ones(1, 8, 8)}, filename_prefix="a/x",
        prompt=PROMPT, extra_pnginfo=EXTRA,
    )  # fmt: skip
    path: Path = app.folders.output / "a" / "x_00001_.latent"
    with safe_open(path, "pt") as file:
        assert {name: json.loads(text) for name, text in file.metadata().items()} == {
            "prompt": PROMPT,
            **EXTRA,
        }
        assert set(file.keys()) == {"latent_tensor", "latent_format_version_0"}
        assert torch.equal(file.get_tensor("latent_tensor"), samples)
    (app.folders.input / "y.latent").write_bytes(path.read_bytes())
    assert torch.equal(out("LoadLatent", latent="y.latent")["samples"], samples)


def test_an_svg(app: App, run: Run) -> None:
    """One section of JSON in its element, whatever is in the texts."""
    picture = b'<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"><path d="M0 0"/></svg>'
    extra = {"workflow": {"title": "a ]]> b", "rows": [[1]]}}
    pictures = SimpleNamespace(data=[BytesIO(picture)])
    run("SaveSVGNode", svg=pictures, filename_prefix="x", prompt=PROMPT, extra_pnginfo=extra)
    text = (app.folders.output / "x_00001_.svg").read_text(encoding="utf-8")
    sections = re.findall(r"<metadata>\s*<!\[CDATA\[(.*?)\]\]>\s*</metadata>", text, re.DOTALL)
    assert [json.loads(section) for section in sections] == [{"prompt": PROMPT, **extra}]
