"""LoadImage and LoadImageMask, with Pillow and hand-made files as witnesses."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import piexif
import pytest
import torch
from comfyk.app import App
from comfyk_core_nodes.images.load import ImageReadError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

Out = Callable[..., Any]


def pixels(height: int = 6, width: int = 9, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def png16(data: np.ndarray) -> bytes:
    """A 16-bit PNG of `[H, W, C]`, written by hand."""
    height, width, channels = data.shape
    color_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in data)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_rgb(app: App, out: Out) -> None:
    data = pixels()
    Image.fromarray(data).save(app.folders.input / "a.png")
    image, mask = out("LoadImage", image="a.png")
    assert image.dtype == mask.dtype == torch.float32
    assert np.array_equal(image[0].numpy(), data.astype(np.float32) / 255)
    assert mask.shape == (1, 64, 64)
    assert not mask.any()


def test_alpha_becomes_the_mask_and_colour_stays(app: App, out: Out) -> None:
    data = pixels(channels=4)
    Image.fromarray(data).save(app.folders.input / "a.png")
    image, mask = out("LoadImage", image="a.png")
    assert np.array_equal(image[0].numpy(), data[..., :3].astype(np.float32) / 255)
    assert np.array_equal(mask[0].numpy(), 1 - data[..., 3].astype(np.float32) / 255)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_opaque_modes_are_converted_as_pillow_does(app: App, out: Out, mode: str) -> None:
    picture = Image.fromarray(pixels()).convert(mode)
    suffix = "png" if mode in ("1", "L", "P") else "tif"
    picture.save(app.folders.input / f"a.{suffix}")
    image, mask = out("LoadImage", image=f"a.{suffix}")
    assert np.array_equal(image[0].numpy(), np.asarray(picture.convert("RGB"), np.float32) / 255)
    assert mask.shape == (1, 64, 64)


def test_grey_with_alpha(app: App, out: Out) -> None:
    data = pixels(channels=2)
    Image.frombytes("LA", (9, 6), data.tobytes()).save(app.folders.input / "a.png")
    image, mask = out("LoadImage", image="a.png")
    assert np.array_equal(image[0].numpy(), np.repeat(data[..., :1], 3, -1).astype(np.float32) / 255)
    assert np.array_equal(mask[0].numpy(), 1 - data[..., 1].astype(np.float32) / 255)


def test_palette_with_a_transparent_colour(app: App, out: Out) -> None:
    picture = Image.new("P", (4, 2), 0)
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putpixel((3, 1), 1)
    picture.save(app.folders.input / "a.png", transparency=1)
    image, mask = out("LoadImage", image="a.png")
    assert torch.equal(image[0, 1, 3], torch.tensor([200, 100, 50]) / 255)
    assert mask[0, 1, 3] == 1
    assert mask.sum() == 1


def test_palette_with_alpha_per_entry(app: App, out: Out) -> None:
    picture = Image.new("P", (2, 1), 0)
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putpixel((1, 0), 1)
    picture.save(app.folders.input / "a.png", transparency=bytes([255, 51]))
    _, mask = out("LoadImage", image="a.png")
    assert mask.tolist() == [[[0, pytest.approx(0.8)]]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_exif_orientation(app: App, out: Out, orientation: int, suffix: str) -> None:
    corner = np.zeros((8, 16, 3), np.uint8)
    corner[:4, :4] = 255  # the top left of the stored picture
    path = app.folders.input / f"a.{suffix}"
    if suffix == "tif":
        Image.fromarray(corner).save(path, tiffinfo={274: orientation})
    else:
        exif = piexif.dump({"0th": {piexif.ImageIFD.Orientation: orientation}})
        Image.fromarray(corner).save(path, exif=exif, lossless=True)  # what JPEG and PNG do not look at
    image, _ = out("LoadImage", image=path.name)
    with Image.open(path) as picture:
        upright = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"), np.float32) / 255
    assert np.array_equal(image[0].numpy(), upright)
    # Where EXIF says that the first stored pixel belongs, as (row, column) of the corners.
    row, column = {
        1: (0, 0),
        2: (0, -1),
        3: (-1, -1),
        4: (-1, 0),
        5: (0, 0),
        6: (0, -1),
        7: (-1, -1),
        8: (-1, 0),
    }[orientation]
    assert image.shape[1:3] == ((8, 16) if orientation < 5 else (16, 8))
    assert image[0, row, column].min() > 0.9
    assert image[0].mean() < 0.3


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_is_no_reason_to_fail(app: App, out: Out) -> None:
    Image.fromarray(pixels()).save(app.folders.input / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert out("LoadImage", image="a.jpg")[0].shape == (1, 6, 9, 3)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_png_keeps_all_its_bits(app: App, out: Out, channels: int) -> None:
    data = np.random.default_rng(1).integers(0, 65536, (5, 7, channels), np.uint16)
    (app.folders.input / "a.png").write_bytes(png16(data))
    image, mask = out("LoadImage", image="a.png")
    color = data[..., :3] if channels > 2 else np.repeat(data[..., :1], 3, -1)
    assert np.array_equal(image[0].numpy(), color.astype(np.float32) / np.float32(65535))
    if channels in (2, 4):
        assert np.array_equal(mask[0].numpy(), 1 - data[..., -1].astype(np.float32) / np.float32(65535))
    else:
        assert mask.shape == (1, 64, 64)


def test_modes_i_and_f(app: App, out: Out) -> None:
    whole = np.array([[0, 65535], [32768, 100_000]], np.int32)
    Image.fromarray(whole).save(app.folders.input / "i.tif")
    image, _ = out("LoadImage", image="i.tif")
    assert torch.allclose(image[0, ..., 0], torch.tensor([[0, 1], [32768 / 65535, 1]]))
    Image.fromarray(np.array([[0.25, 2], [-1, np.nan]], np.float32)).save(app.folders.input / "f.tif")
    image, _ = out("LoadImage", image="f.tif")
    assert image[0, ..., 1].tolist() == [[0.25, 1], [0, 0]]


@pytest.mark.parametrize(
    ("suffix", "options"), [("gif", {}), ("webp", {"lossless": True}), ("png", {}), ("tif", {})]
)
def test_animations_become_batches(app: App, out: Out, suffix: str, options: dict[str, Any]) -> None:
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    frames = [Image.new("RGB", (8, 6), color) for color in colors]
    frames[0].save(
        app.folders.input / f"a.{suffix}",
        save_all=True,
        append_images=frames[1:],
        duration=100,
        loop=0,
        **options,
    )
    image, mask = out("LoadImage", image=f"a.{suffix}")
    assert image.shape == (3, 6, 8, 3)
    assert torch.equal(image[:, 0, 0], torch.tensor(colors) / 255)
    assert mask.shape[0] == 3
    assert not mask.any()


def test_animation_with_transparency(app: App, out: Out) -> None:
    frames = [Image.new("RGBA", (8, 6), (255, 0, 0, 255)), Image.new("RGBA", (8, 6), (0, 255, 0, 0))]
    frames[0].save(
        app.folders.input / "a.webp", save_all=True, append_images=frames[1:], lossless=True, exact=True
    )
    image, mask = out("LoadImage", image="a.webp")
    assert image.shape == (2, 6, 8, 3)
    assert mask.shape == (2, 6, 8)
    assert mask.mean((1, 2)).tolist() == [0, 1]


def test_apng_picture_for_other_programs_is_left_out(app: App, out: Out) -> None:
    first, *frames = [Image.new("RGB", (8, 6), color) for color in ("white", "red", "lime")]
    first.save(app.folders.input / "a.png", save_all=True, append_images=frames, default_image=True)
    image, _ = out("LoadImage", image="a.png")
    assert image[:, 0, 0].tolist() == [[1, 0, 0], [0, 1, 0]]


def test_frames_of_another_size_are_left_out(app: App, out: Out) -> None:
    frames = [Image.new("RGB", size, "red") for size in ((8, 6), (4, 4), (8, 6))]
    frames[0].save(app.folders.input / "a.tif", save_all=True, append_images=frames[1:])
    assert out("LoadImage", image="a.tif")[0].shape == (2, 6, 8, 3)


def test_mpo_gives_its_first_picture(app: App, out: Out) -> None:
    first, second = (Image.new("RGB", (8, 8), color) for color in ("red", "blue"))
    first.save(app.folders.input / "a.jpg", format="MPO", save_all=True, append_images=[second])
    with Image.open(app.folders.input / "a.jpg") as picture:
        assert picture.format == "MPO"
    image, _ = out("LoadImage", image="a.jpg")
    assert image.shape == (1, 8, 8, 3)
    assert image[0, 0, 0, 0] > 0.9


@pytest.mark.parametrize("channel", ["alpha", "red", "green", "blue"])
def test_load_image_mask(app: App, out: Out, channel: str) -> None:
    data = pixels(channels=4)
    Image.fromarray(data).save(app.folders.input / "a.png")
    mask = out("LoadImageMask", image="a.png", channel=channel)
    values = data[..., ["red", "green", "blue", "alpha"].index(channel)].astype(np.float32) / 255
    assert np.array_equal(mask[0].numpy(), 1 - values if channel == "alpha" else values)


def test_load_image_mask_without_alpha(app: App, out: Out) -> None:
    Image.fromarray(pixels()).save(app.folders.input / "a.png")
    assert out("LoadImageMask", image="a.png", channel="alpha").shape == (1, 64, 64)


def test_folders_and_subfolders(app: App, out: Out) -> None:
    for folder, level in ((app.folders.input, 1), (app.folders.output, 2), (app.folders.temp, 3)):
        (folder / "sub").mkdir()
        Image.new("L", (1, 1), level).save(folder / "sub" / "a.png")
    for name, level in (("", 1), (" [input]", 1), (" [output]", 2), (" [temp]", 3), ("[output]", 2)):
        assert out("LoadImage", image=f"sub/a.png{name}")[0].max() * 255 == pytest.approx(level)


def test_lists_pictures_of_the_input_folder(app: App) -> None:
    for name in ("b.PNG", "a.jpg", "notes.txt", "model.safetensors", "drawing.svg"):
        (app.folders.input / name).write_bytes(b"")
    (app.folders.input / "folder.png").mkdir()

    def listed() -> Any:
        return app.nodes["LoadImage"].info()["input"]["required"]["image"][0]

    assert listed() == ["a.jpg", "b.PNG"]
    (app.folders.input / "c.webp").write_bytes(b"")
    assert listed() == ["a.jpg", "b.PNG", "c.webp"]


def call(app: App, method: Any, **values: Any) -> Any:
    node = app.nodes["LoadImage"]
    return node.call(node.create(), method, values, node.live_inputs(values), {})


def test_validation(app: App, tmp_path: Path) -> None:
    (app.folders.input / "a.png").write_bytes(b"")
    (tmp_path / "secret.png").write_bytes(b"")
    (app.folders.input / "link.png").symlink_to(tmp_path / "secret.png")
    assert call(app, "validate", image="a.png") is True
    for name in (
        "b.png",
        "../secret.png",
        str(tmp_path / "secret.png"),
        "link.png",
        "a.png [output]",
        "",
        "a\0",
    ):
        assert call(app, "validate", image=name) == f"Invalid image file: {name}"


def test_fingerprint_is_the_sha256_of_the_file(app: App) -> None:
    (app.folders.input / "a.png").write_bytes(b"content")
    assert call(app, "fingerprint", image="a.png") == hashlib.sha256(b"content").hexdigest()


def test_missing_file_is_named(out: Out) -> None:
    with pytest.raises(ImageReadError, match=r"gone\.png.*upload"):
        out("LoadImage", image="gone.png")


def encoded(suffix: str) -> bytes:
    file = io.BytesIO()
    noise = Image.fromarray(pixels(64, 64))
    frames = {"save_all": True, "append_images": [Image.fromarray(pixels(64, 64, seed=1))]}
    noise.save(
        file,
        {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix),
        **(frames if suffix in ("gif", "webp") else {}),
    )
    return file.getvalue()


@pytest.mark.parametrize(("suffix", "left"), [("webp", 0.5), ("png", 0.003), ("jpg", 0.05), ("bmp", 0.002)])
def test_files_of_which_nothing_is_there_are_named(app: App, out: Out, suffix: str, left: float) -> None:
    whole = encoded(suffix)
    (app.folders.input / f"cut.{suffix}").write_bytes(whole[: int(len(whole) * left)])
    with pytest.raises(ImageReadError, match=rf"cut\.{suffix}: the file is damaged"):
        out("LoadImage", image=f"cut.{suffix}")


def test_text_is_no_picture(app: App, out: Out) -> None:
    (app.folders.input / "a.png").write_text("hello")
    with pytest.raises(ImageReadError, match=r"a\.png.*PNG, JPEG or WebP"):
        out("LoadImage", image="a.png")


def test_huge_pictures_are_refused(app: App, out: Out) -> None:
    small = io.BytesIO()
    Image.new("1", (8, 8)).save(small, "PNG")
    body = struct.pack(">IIBBBBB", 2_000_000, 1_000_000, 1, 0, 0, 0, 0)
    header = struct.pack(">I", 13) + b"IHDR" + body + struct.pack(">I", zlib.crc32(b"IHDR" + body))
    (app.folders.input / "huge.png").write_bytes(small.getvalue()[:8] + header + small.getvalue()[33:])
    with pytest.raises(ImageReadError, match=r"huge\.png: the picture is too large.*2000000x1000000 pixels"):
        out("LoadImage", image="huge.png")


def test_a_batch_that_does_not_fit_into_memory_is_refused(
    app: App, out: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    class Memory:
        available = 2000

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    Image.fromarray(pixels()).save(app.folders.input / "a.png")
    assert out("LoadImage", image="a.png")[0].shape == (1, 6, 9, 3)
    Image.fromarray(pixels(16, 16)).save(app.folders.input / "b.png")
    with pytest.raises(ImageReadError, match=r"b\.png.*too large"):
        out("LoadImage", image="b.png")


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    suffix=st.sampled_from(["png", "jpg", "gif", "webp", "tif", "bmp"]),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=20),
    cut=st.integers(0, 10**6),
)
def test_any_damage_gives_a_picture_or_our_error(
    app: App, out: Out, suffix: str, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(encoded(suffix))
    for position, value in changes:
        data[position % len(data)] = value
    (app.folders.input / f"a.{suffix}").write_bytes(data[: cut if cut < len(data) else None])
    try:
        image, mask = out("LoadImage", image=f"a.{suffix}")
    except ImageReadError as error:
        assert f"a.{suffix}" in str(error)
    else:
        assert image.dim() == 4
        assert 0 <= image.min() <= image.max() <= 1
        assert mask.shape[0] == image.shape[0]
