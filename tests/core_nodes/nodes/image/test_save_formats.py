"""Animations, deep pictures and SVG: what is in the files, with Pillow and the formats' own rules as witnesses."""

from __future__ import annotations

import json
import struct
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comfyk.app import App
from comfyk_core_nodes.images.deep import hlg_to_linear, srgb_to_linear
from PIL import Image, ImageSequence

Run = Callable[..., Any]

PROMPT = {"1": {"class_type": "X", "inputs": {"text": "ä"}}}
EXTRA = {"workflow": {"id": "]]>"}}


def random(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def in_bytes(images: torch.Tensor) -> np.ndarray:
    return (images * 255).to(torch.uint8).numpy()


def animate(run: Run, kind: str, images: torch.Tensor, **more: Any) -> Any:
    webp = {"lossless": True, "quality": 80, "method": "fastest"}
    values = {"fps": 4.0, "filename_prefix": "a"} | (webp if kind == "WEBP" else {"compress_level": 1}) | more
    return run(f"SaveAnimated{kind}", images=images, prompt=PROMPT, extra_pnginfo=EXTRA, **values)


@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
@pytest.mark.parametrize("channels", [3, 4])
def test_animation(app: App, run: Run, kind: str, channels: int) -> None:
    images = random(3, 8, 9, channels)
    images[..., 3:] = 1
    result = animate(run, kind, images)
    name = f"a_00001_.{kind.lower()}"
    assert result.ui == {
        "images": [{"filename": name, "subfolder": "", "type": "output"}],
        "animated": [True],
    }
    assert result.values == (images,)
    with Image.open(app.folders.output / name) as picture:
        frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(picture)]
        assert picture.info["duration"] == 250
    assert np.array_equal(np.stack([np.asarray(frame) for frame in frames]), in_bytes(images[..., :3]))


def test_one_picture_is_no_animation(app: App, run: Run) -> None:
    assert "animated" not in animate(run, "PNG", random(1, 4, 4, 3)).ui
    assert animate(run, "PNG", random(1, 4, 4, 3)).ui["images"][0]["filename"] == "a_00002_.png"


def test_lossy_is_smaller(app: App, run: Run) -> None:
    images = random(2, 32, 32, 3)
    animate(run, "WEBP", images)
    animate(run, "WEBP", images, lossless=False, quality=10)
    whole, lossy = (app.folders.output / f"a_0000{n}_.webp" for n in (1, 2))
    assert lossy.stat().st_size < whole.stat().st_size / 2


def png_chunks(path: Path) -> list[tuple[bytes, bytes]]:
    data, position, chunks = path.read_bytes(), 8, []
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind, content = data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        assert zlib.crc32(kind + content) == struct.unpack_from(">I", data, position + 8 + length)[0]
        chunks.append((kind, content))
        position += 12 + length
    return chunks


def test_metadata_of_animations(app: App, run: Run) -> None:
    animate(run, "WEBP", random(2, 4, 4, 3))
    animate(run, "PNG", random(2, 4, 4, 3))
    with Image.open(app.folders.output / "a_00001_.webp") as picture:
        exif = picture.getexif()
        assert json.loads(exif[0x0110].removeprefix("prompt:")) == PROMPT
        assert json.loads(exif[0x010F].removeprefix("workflow:")) == EXTRA["workflow"]
    texts = [content for kind, content in png_chunks(app.folders.output / "a_00002_.png") if kind == b"comf"]
    assert [text.split(b"\0")[0] for text in texts] == [b"prompt", b"workflow"]
    assert json.loads(texts[0].split(b"\0")[1]) == PROMPT


def test_webp_has_a_largest_size(app: App, run: Run) -> None:
    with pytest.raises(ValueError, match="at most 16383 pixels"):
        animate(run, "WEBP", torch.zeros(1, 1, 16384, 3))
    assert list(app.folders.output.iterdir()) == []


def save(run: Run, images: torch.Tensor, kind: str, depth: str, space: str = "sRGB") -> list[str]:
    values = {"format": kind, "format.bit_depth": depth, "format.input_color_space": space}
    result = run(
        "SaveImageAdvanced", images=images, filename_prefix="a", prompt=PROMPT, extra_pnginfo=EXTRA, **values
    )
    assert result.values == (images,)
    return [one["filename"] for one in result.ui["images"]]


@pytest.mark.parametrize("channels", [0, 1, 3, 4])
def test_png_8(app: App, run: Run, channels: int) -> None:
    images = random(2, 5, 7, channels) if channels else random(2, 5, 7)
    assert save(run, images, "png", "8-bit") == ["a_00001.png", "a_00002.png"]
    assert save(run, images, "png", "8-bit") == ["a_00003.png", "a_00004.png"]
    with Image.open(app.folders.output / "a_00002.png") as picture:
        assert np.array_equal(np.asarray(picture).reshape(images[1].shape), in_bytes(images[1]))
        assert json.loads(picture.info["prompt"]) == PROMPT


@pytest.mark.parametrize("channels", [0, 1, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (9, 13)])
def test_png_16(app: App, run: Run, channels: int, size: tuple[int, int]) -> None:
    images = random(1, *size, channels) if channels else random(1, *size)
    images.reshape(-1)[0] = 1.5
    (name,) = save(run, images, "png", "16-bit")
    path = app.folders.output / name
    kinds = [kind for kind, _ in png_chunks(path)]
    assert kinds == [b"IHDR", b"tEXt", b"tEXt", b"IDAT", b"IEND"]
    expected = (images.clamp(0, 1) * 65535).numpy().astype(np.uint16)
    with Image.open(path) as picture:
        assert json.loads(picture.info["workflow"]) == EXTRA["workflow"]
        picture.load()
        if channels < 3:
            assert np.array_equal(np.asarray(picture), expected.reshape(size))
        else:  # Pillow gives the high bytes
            assert np.array_equal(np.asarray(picture), (expected[0] >> 8).astype(np.uint8))
    if channels == 3:  # and LoadImage all
        (app.folders.input / "b.png").write_bytes(path.read_bytes())
        loaded = run("LoadImage", image="b.png").values[0]
        assert np.array_equal(np.rint(loaded.numpy() * 65535).astype(np.uint16), expected)


def read_exr(path: Path) -> tuple[dict[str, tuple[str, bytes]], dict[str, np.ndarray]]:
    """Attributes and channels of a file with scan lines and ZIP compression, as its specification says."""
    data = path.read_bytes()
    assert struct.unpack_from("<I", data) == (20000630,)
    position, attributes = 8, {}
    while data[position]:
        name, kind, rest = data[position:].split(b"\0", 2)
        (size,) = struct.unpack_from("<i", rest)
        attributes[name.decode()] = (kind.decode(), rest[4 : 4 + size])
        position += len(name) + len(kind) + 2 + 4 + size
    left, top, right, bottom = struct.unpack("<4i", attributes["dataWindow"][1])
    assert (left, top) == (0, 0)
    width, height = right + 1, bottom + 1
    assert attributes["compression"][1] == b"\x03"
    listed = attributes["channels"][1]
    assert len(listed) % 18 == 1
    names = [chr(listed[at]) for at in range(0, len(listed) - 1, 18)]
    assert names == sorted(names)
    offsets = struct.unpack_from(f"<{-(-height // 16)}Q", data, position + 1)
    rows = []
    for number, offset in enumerate(offsets):
        first, size = struct.unpack_from("<ii", data, offset)
        assert first == 16 * number
        lines = min(16, height - first)
        raw = data[offset + 8 : offset + 8 + size]
        if size < lines * width * len(names) * 4:
            steps = np.frombuffer(zlib.decompress(raw), np.uint8).astype(np.int64)
            steps[1:] -= 128
            parted = np.cumsum(steps).astype(np.uint8)
            whole = np.empty_like(parted)
            half = (len(parted) + 1) // 2
            whole[0::2], whole[1::2] = parted[:half], parted[half:]
            raw = whole.tobytes()
        rows.append(np.frombuffer(raw, "<f4").reshape(lines, len(names), width))
    pixels = np.concatenate(rows)
    return attributes, {name: pixels[:, number] for number, name in enumerate(names)}


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (37, 8)])
def test_exr(app: App, run: Run, channels: int, size: tuple[int, int]) -> None:
    images = random(1, *size, channels) * 3 - 1
    assert save(run, images, "exr", "32-bit float", "linear") == ["a_00001.exr"]
    attributes, planes = read_exr(app.folders.output / "a_00001.exr")
    for number, name in enumerate("Y" if channels == 1 else "RGBA"[:channels]):
        assert np.array_equal(planes[name], images[0, ..., number].numpy())
    assert attributes["prompt"] == ("string", json.dumps(PROMPT).encode())
    assert attributes["workflow"][0] == "string"
    red = struct.unpack("<8f", attributes["chromaticities"][1])[:2]
    assert red == pytest.approx((0.64, 0.33))


def test_exr_compresses(app: App, run: Run) -> None:
    images = torch.linspace(0, 1, 100).reshape(1, 1, -1, 1).repeat(1, 64, 1, 3)
    save(run, images, "exr", "32-bit float", "linear")
    path = app.folders.output / "a_00001.exr"
    assert path.stat().st_size < 64 * 100 * 3 * 4 / 4
    assert np.array_equal(read_exr(path)[1]["G"], images[0, ..., 1].numpy())


def test_exr_is_linear_light(app: App, run: Run) -> None:
    images = torch.tensor([0.0, 0.04, 0.5, 1.0]).reshape(1, 2, 2, 1).repeat(1, 1, 1, 3)
    save(run, images, "exr", "32-bit float", "sRGB")
    save(run, images, "exr", "32-bit float", "HDR")
    _, srgb = read_exr(app.folders.output / "a_00001.exr")
    assert srgb["R"].flatten().tolist() == pytest.approx([0, 0.04 / 12.92, 0.2140411, 1], abs=1e-6)
    attributes, hdr = read_exr(app.folders.output / "a_00002.exr")
    assert hdr["R"].flatten().tolist() == pytest.approx([0, 0.04**2 / 3, 1 / 12, 1], abs=1e-6)
    assert struct.unpack("<8f", attributes["chromaticities"][1])[:2] == pytest.approx((0.708, 0.292))


@pytest.mark.parametrize(("curve", "knee"), [(srgb_to_linear, 0.04045), (hlg_to_linear, 0.5)])
def test_curves_are_continuous_and_leave_alpha_alone(
    curve: Callable[[torch.Tensor], torch.Tensor], knee: float
) -> None:
    below, above = curve(torch.tensor([[knee - 1e-6], [knee + 1e-6]], dtype=torch.float64)).flatten().tolist()
    assert above == pytest.approx(below, abs=1e-5)
    assert curve(torch.tensor([0.5, 0.5, 0.5, 0.3]))[3] == 0.3
    assert torch.isfinite(curve(torch.tensor([[-1.0], [0.0], [2.0]]))).all()


def test_exr_attributes_that_have_no_room(app: App, run: Run, caplog: pytest.LogCaptureFixture) -> None:
    extra = {"channels": 1, "": 2, "a\0b": 3, "x" * 300: 4, "long" * 20: 5}
    values = {
        "format": "exr",
        "format.bit_depth": "32-bit float",
        "format.input_color_space": "linear",
    }
    run("SaveImageAdvanced", images=random(1, 2, 2, 3), filename_prefix="a", extra_pnginfo=extra, **values)
    path = app.folders.output / "a_00001.exr"
    attributes, _ = read_exr(path)
    assert attributes["long" * 20] == ("string", b"5")
    assert attributes["channels"][0] == "chlist"
    assert struct.unpack_from("<I", path.read_bytes(), 4) == (2 | 0x400,)
    assert len([one for one in caplog.messages if "is not saved" in one]) == 4


@pytest.mark.parametrize("kind", ["png", "exr"])
def test_other_channels_are_refused(run: Run, kind: str) -> None:
    depth = "16-bit" if kind == "png" else "32-bit float"
    with pytest.raises(ValueError, match="this picture has 2"):
        save(run, random(1, 3, 3, 2), kind, depth)


class Svg:
    def __init__(self, *texts: str | bytes):
        self.data = [BytesIO(text.encode() if isinstance(text, str) else text) for text in texts]


def test_svg(app: App, run: Run) -> None:
    text = (
        '<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" title="a > b"><g id="größe"/></svg>'
    )
    svg = Svg(text, "<svg/>", "no picture")
    svg.data[0].read()
    result = run(
        "SaveSVGNode", svg=svg, filename_prefix="svg/a%batch_num%", prompt=PROMPT, extra_pnginfo=EXTRA
    )
    names = [one["filename"] for one in result.ui["images"]]
    assert names == ["a0_00001_.svg", "a1_00002_.svg", "a2_00003_.svg"]
    assert result.values == (svg,)
    saved = [(app.folders.output / "svg" / name).read_text("utf-8") for name in names]
    metadata, group = ElementTree.fromstring(saved[0])
    assert metadata.tag.endswith("metadata")
    assert json.loads(metadata.text or "") == {"prompt": PROMPT, **EXTRA}
    assert group.get("id") == "größe"
    assert saved[1:] == ["<svg/>", "no picture"]


def test_svg_without_metadata_is_untouched(app: App, run: Run) -> None:
    app.settings.section("metadata").disable = True
    run("SaveSVGNode", svg=Svg("<svg><g/></svg>"), filename_prefix="a", prompt=PROMPT)
    assert (app.folders.output / "a_00001_.svg").read_text() == "<svg><g/></svg>"


def test_broken_svg(run: Run) -> None:
    with pytest.raises(ValueError, match="SVG picture 1 is no UTF-8"):
        run("SaveSVGNode", svg=Svg("<svg></svg>", b"\xff"), filename_prefix="a")
    hostile = "<svg '" * 20000
    run("SaveSVGNode", svg=Svg(hostile), filename_prefix="a", prompt=PROMPT)
