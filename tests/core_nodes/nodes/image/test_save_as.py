"""SaveImageAs: each format with its options and the workflow inside, read back by Pillow."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from comfyk.app import App
from PIL import Image

Run = Callable[..., Any]

PROMPT = {"1": {"class_type": "A", "inputs": {"text": "\u00e4 fox"}}}
WORKFLOW = {"nodes": [1, 2, 3]}


def pictures(channels: int = 3, batch: int = 2) -> torch.Tensor:
    """Smooth, so that lossy formats come near it."""
    ramp = torch.linspace(0, 1, 64)
    first = torch.stack([ramp.repeat(48, 1), 1 - ramp.repeat(48, 1), torch.full((48, 64), 0.5)], dim=-1)
    if channels == 4:
        first = torch.cat([first, torch.full((48, 64, 1), 0.5)], dim=-1)
    return torch.stack([first * (1 - number / 4) for number in range(batch)])


def inside(picture: Image.Image) -> dict[str, Any]:
    if picture.format == "PNG":
        return {
            key: json.loads(value) for key, value in picture.info.items() if key in ("prompt", "workflow")
        }
    texts = [str(value).partition(":") for value in picture.getexif().values() if isinstance(value, str)]
    return {key: json.loads(value) for key, _, value in texts}


@pytest.mark.parametrize(
    ("format", "suffix", "difference"),
    [
        ({"format": "png", "compress_level": 0}, ".png", 1),
        ({"format": "jpeg", "quality": 95, "progressive": False}, ".jpg", 8),
        ({"format": "jpeg", "quality": 95, "progressive": True}, ".jpg", 8),
        ({"format": "webp", "quality": 90, "lossless": True}, ".webp", 1),
        ({"format": "webp", "quality": 90, "lossless": False}, ".webp", 12),
        ({"format": "avif", "quality": 90}, ".avif", 12),
    ],
)
def test_each_format(app: App, run: Run, format: dict[str, Any], suffix: str, difference: int) -> None:
    images = pictures()
    values = {f"format.{key}": value for key, value in format.items() if key != "format"}
    saved = run(
        "SaveImageAs", prompt=PROMPT, extra_pnginfo={"workflow": WORKFLOW},
        images=images, filename_prefix="sub/a", format=format["format"], **values,
    )  # fmt: skip
    assert [item["filename"] for item in saved.ui["images"]] == [f"a_0000{n}_{suffix}" for n in (1, 2)]
    for item, expected in zip(saved.ui["images"], images, strict=True):
        with Image.open(app.folders.output / item["subfolder"] / item["filename"]) as picture:
            assert picture.format == format["format"].upper()
            assert inside(picture) == {"prompt": PROMPT, "workflow": WORKFLOW}
            if "progressive" in format:
                assert bool(picture.info.get("progressive")) is format["progressive"]
            pixels = np.asarray(picture.convert("RGB"), np.int16)
        assert np.abs(pixels - (expected.numpy() * 255)).max() <= difference
    assert saved.values[0] is images


@pytest.mark.parametrize("format", ["jpeg", "webp", "avif"])
def test_quality_counts(app: App, run: Run, format: str) -> None:
    noise = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    more = {"jpeg": {"format.progressive": False}, "webp": {"format.lossless": False}}.get(format, {})
    sizes = []
    for quality in (30, 95):
        saved = run(
            "SaveImageAs",
            images=noise,
            filename_prefix="a",
            format=format,
            **{"format.quality": quality},
            **more,
        )
        sizes.append((app.folders.output / saved.ui["images"][0]["filename"]).stat().st_size)
    assert sizes[1] > 1.5 * sizes[0]


@pytest.mark.parametrize(("format", "mode"), [("jpeg", "RGB"), ("webp", "RGBA"), ("avif", "RGBA")])
def test_transparency(app: App, run: Run, format: str, mode: str) -> None:
    more = {"jpeg": {"format.progressive": False}, "webp": {"format.lossless": False}}.get(format, {})
    saved = run(
        "SaveImageAs",
        images=pictures(4, 1),
        filename_prefix="a",
        format=format,
        **{"format.quality": 90},
        **more,
    )
    with Image.open(app.folders.output / saved.ui["images"][0]["filename"]) as picture:
        assert picture.mode == mode


def test_a_workflow_that_a_jpeg_has_no_room_for(app: App, run: Run, caplog: pytest.LogCaptureFixture) -> None:
    large = {"workflow": {"nodes": ["x" * 70_000]}}
    for format, options, kept in (
        ("jpeg", {"format.quality": 90, "format.progressive": False}, False),
        ("webp", {"format.quality": 90, "format.lossless": False}, True),
    ):
        saved = run(
            "SaveImageAs",
            extra_pnginfo=large,
            images=pictures(),
            filename_prefix="a",
            format=format,
            **options,
        )
        with Image.open(app.folders.output / saved.ui["images"][0]["filename"]) as picture:
            assert inside(picture) == (large if kept else {})
    assert "does not fit into a JPEG" in caplog.text


def test_a_picture_that_is_too_wide(run: Run) -> None:
    with pytest.raises(
        ValueError, match="webp has at most 16,383 pixels a side, and this picture has 20000x1"
    ):
        run("SaveImageAs", images=torch.zeros(1, 1, 20_000, 3), filename_prefix="a", format="webp",
            **{"format.quality": 90, "format.lossless": False})  # fmt: skip
