"""Pictures that browsers show although something is wrong with them, or they are large."""

from __future__ import annotations

import asyncio
import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from comfyk.app import App
from comfyk.events import Executing
from comfyk.jobs.model import JobStatus
from comfyk_core_nodes.images.load import ImageReadError
from PIL import Image, PngImagePlugin

Out = Callable[..., Any]


def noise(height: int = 64, width: int = 48, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 256, (height, width, channels), np.uint8)


def encoded(picture: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def text(method: str, *arguments: Any, **options: Any) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    getattr(info, method)("workflow", *arguments, **options)
    return info


def load(app: App, out: Out, name: str, data: bytes, node: str = "LoadImage", **values: Any) -> Any:
    folder = app.folders.output if node == "LoadImageOutput" else app.folders.input
    (folder / name).write_bytes(data)
    return out(node, image=f"{name} [output]" if node == "LoadImageOutput" else name, **values)


@pytest.mark.parametrize("node", ["LoadImage", "LoadImageOutput"])
@pytest.mark.parametrize(
    "options",
    [
        {"icc_profile": b"\0" * 2_000_000},
        {"pnginfo": text("add_text", "y" * 2_000_000, zip=True)},
        {"pnginfo": text("add_itxt", "é" * 1_000_000, zip=True)},
        {"pnginfo": text("add_text", "y" * 70_000_000)},
    ],
    ids=["profile", "zTXt", "iTXt", "tEXt"],
)
def test_large_chunks_of_a_png(app: App, out: Out, node: str, options: dict[str, Any]) -> None:
    data = noise()
    image, _ = load(app, out, "a.png", encoded(Image.fromarray(data), **options), node)
    assert np.array_equal(image[0].numpy(), data.astype(np.float32) / 255)


def test_a_damaged_text_of_a_png(app: App, out: Out) -> None:
    data = noise()
    whole = encoded(Image.fromarray(data))
    broken = struct.pack(">I4s", 20, b"zTXt") + b"workflow\0\0notcompres" + b"\0" * 4
    image, _ = load(app, out, "a.png", whole[:33] + broken + whole[33:])
    assert np.array_equal(image[0].numpy(), data.astype(np.float32) / 255)


@pytest.mark.parametrize("place", ["eXIf", "xmp"])
def test_orientation_beside_a_large_chunk(app: App, out: Out, place: str) -> None:
    """As Pillow, which the rest of the program asks, reads it: also from XMP where there is no EXIF."""
    picture = Image.fromarray(noise(10, 20))
    info = text("add_text", "y" * 2_000_000, zip=True)
    options: dict[str, Any] = {"pnginfo": info}
    if place == "eXIf":
        exif = Image.Exif()
        exif[0x0112] = 6
        options["exif"] = exif
    else:
        info.add_itxt(
            "XML:com.adobe.xmp", '<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
        )
    image, _ = load(app, out, "a.png", encoded(picture, **options))
    assert image.shape == (1, 20, 10, 3)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("left", [-2, -30, 0.5])
@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_a_jpeg_without_its_end(app: App, out: Out, mode: str, left: float, options: dict[str, Any]) -> None:
    """What is there is as in the whole one; what a baseline JPEG lacks is one grey."""
    whole = encoded(Image.fromarray(noise(200, 200)).convert(mode), "JPEG", quality=90, **options)
    cut = whole[: int(left) if left < 0 else int(len(whole) * left)]
    (image, _), (expected, _) = load(app, out, "cut.jpg", cut), load(app, out, "whole.jpg", whole)
    assert image.shape == expected.shape
    if not options:
        rows = 200 if left == -2 else 180 if left == -30 else 90
        assert (image[0, :rows] - expected[0, :rows]).abs().max() < 1e-6
        if left == 0.5:
            assert image[0, 150:].std() < 0.05
    else:
        assert (image - expected).abs().mean() < 0.4


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "I;16"])
@pytest.mark.parametrize("lost", [12, 20, 2000])
def test_a_png_without_its_end(app: App, out: Out, mode: str, lost: int) -> None:
    """Without the last chunk nothing is missing; of the last rows it is black."""
    if mode == "I;16":
        picture = Image.fromarray(noise(100, 100, 2).view(np.uint16)[..., 0])
    else:
        picture = Image.fromarray(noise(100, 100)).convert(mode)
    whole = encoded(picture)
    (image, mask), (expected, _) = load(app, out, "a.png", whole[:-lost]), load(app, out, "b.png", whole)
    rows = 100 if lost == 12 else 99 if lost == 20 else 30
    assert image.shape == expected.shape
    assert (image[0, :rows] == expected[0, :rows]).all()
    if lost == 2000:
        assert not image[0, -3:].any() or mode == "P"
        assert mode != "RGBA" or (mask[0, -3:] == 1).all()


@pytest.mark.parametrize("channel", ["alpha", "red"])
def test_a_mask_of_a_png_without_its_end(app: App, out: Out, channel: str) -> None:
    data = noise(100, 100, 4)
    mask = load(app, out, "a.png", encoded(Image.fromarray(data))[:-2000], "LoadImageMask", channel=channel)
    expected = data[..., 3 if channel == "alpha" else 0].astype(np.float32) / 255
    if channel == "alpha":
        expected = 1 - expected
    assert np.allclose(mask[0, :30].numpy(), expected[:30])


def test_pixels_that_are_damaged_in_the_middle(app: App, out: Out) -> None:
    data = noise(100, 100)
    whole = bytearray(encoded(Image.fromarray(data)))
    start, length = whole.index(b"IDAT") + 4, struct.unpack(">I", whole[whole.index(b"IDAT") - 4 :][:4])[0]
    middle = start + length // 2
    whole[middle : middle + 40] = b"\xff" * 40
    whole[start + length : start + length + 4] = struct.pack(
        ">I", zlib.crc32(b"IDAT" + whole[start : start + length])
    )
    image, _ = load(app, out, "a.png", bytes(whole))
    assert (image[0, :30].numpy() == data[:30].astype(np.float32) / 255).all()


def test_an_animation_without_its_end(app: App, out: Out) -> None:
    frames = [Image.fromarray(noise(40, 40)).rotate(90 * turn) for turn in range(4)]
    whole = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    (cut, _), (expected, _) = (
        load(app, out, "a.gif", whole[: len(whole) * 5 // 8]),
        load(app, out, "b.gif", whole),
    )
    assert 2 <= len(cut) < 4
    assert (cut[:2] == expected[:2]).all()


def test_a_picture_that_pillow_would_call_a_bomb(app: App, out: Out) -> None:
    """14,000 x 14,000, as SaveImage can write it; made of one bit for each pixel here."""
    image, _ = load(app, out, "huge.png", encoded(Image.new("1", (14_000, 14_000), 1)))
    assert image.shape == (1, 14_000, 14_000, 3)
    assert float(image[0, ::1000, ::1000].min()) == 1


def animation(count: int, size: int = 8) -> bytes:
    """A GIF of two frames in turn."""
    frames = [Image.fromarray(noise(size, size)).convert("P").rotate(90 * turn) for turn in range(2)]
    whole = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=10)
    first = whole.index(b"\x21\xf9")
    second = whole.index(b"\x21\xf9", first + 1)
    pair = (whole[first:second], whole[second:-1])
    return whole[:first] + b"".join(pair[number % 2] for number in range(count)) + b";"


def test_more_frames_than_the_memory_holds(app: App, out: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are counted before any is read, and a small one is not taken for nothing."""
    import psutil

    class Memory:
        available = 4_000_000_000

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    with pytest.raises(ImageReadError, match=r"a\.gif: the picture is too large.*200000 frames of 8x8"):
        load(app, out, "a.gif", animation(200_000))
    image, _ = load(app, out, "a.gif", animation(200))
    assert image.shape == (200, 8, 8, 3)


def test_a_long_animation_can_be_interrupted(app: App) -> None:
    (app.folders.input / "a.gif").write_bytes(animation(5000))
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "a.gif"}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }

    async def interrupted() -> JobStatus:
        async with app:
            submission = await app.jobs.submit(graph)
            begun = asyncio.Event()
            app.events.subscribe(lambda event: begun.set() if event.node == "1" else None, Executing)
            await begun.wait()
            assert app.jobs.interrupt(submission.job.id)
            return (await app.jobs.wait(submission.job.id)).status

    assert asyncio.run(interrupted()) is JobStatus.CANCELLED
