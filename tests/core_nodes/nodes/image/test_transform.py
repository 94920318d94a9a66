"""Cropping, turning, stitching and framing pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from comfyk.app import App
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

Out = Callable[..., Any]

FLIPS = ["x-axis: vertically", "y-axis: horizontally"]
TURNS = ["none", "90 degrees", "180 degrees", "270 degrees"]
quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
sizes = st.tuples(st.integers(1, 12), st.integers(1, 12))


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_crop_shows_what_is_left(app: App, run: Out) -> None:
    image = pictures(2, 8, 9, 3)
    result = run("ImageCropV2", image=image, crop_region={"x": 2, "y": 3, "width": 4, "height": 100})
    assert result.values is not None
    assert torch.equal(result.values[0], image[:, 3:, 2:6])
    shown = result.ui["images"]
    assert [one["type"] for one in shown] == ["temp", "temp"]
    with Image.open(app.folders.temp / shown[0]["filename"]) as picture:
        assert picture.size == (4, 5)


@quick
@given(sizes, st.integers(0, 20), st.integers(0, 20), st.integers(1, 20), st.integers(1, 20))
def test_a_crop_is_never_empty(
    run: Out, size: tuple[int, int], x: int, y: int, width: int, height: int
) -> None:
    region = {"x": x, "y": y, "width": width, "height": height}
    (cropped,) = run("ImageCropV2", image=pictures(1, *size, 3), crop_region=region).values
    x, y = min(x, size[1] - 1), min(y, size[0] - 1)
    assert cropped.shape == (1, min(height, size[0] - y), min(width, size[1] - x), 3)


@quick
@given(sizes, st.sampled_from(FLIPS), st.sampled_from(TURNS))
def test_turns_and_flips_are_a_group(out: Out, size: tuple[int, int], flip: str, turn: str) -> None:
    image = pictures(2, *size, 3)
    latent = {"samples": image.movedim(-1, 1), "batch_index": [4, 5]}
    flipped = out("ImageFlip", image=image, flip_method=flip)
    assert torch.equal(out("ImageFlip", image=flipped, flip_method=flip), image)
    turned = image
    for _ in range(4):
        turned = out("ImageRotate", image=turned, rotation="90 degrees")
    assert torch.equal(turned, image)
    turned = out("ImageRotate", image=image, rotation=turn)
    # Latents go the same way as pictures, frames of videos too.
    assert torch.equal(out("LatentRotate", samples=latent, rotation=turn)["samples"], turned.movedim(-1, 1))
    assert torch.equal(out("LatentFlip", samples=latent, flip_method=flip)["samples"], flipped.movedim(-1, 1))
    video = {"samples": latent["samples"].unsqueeze(2).repeat(1, 1, 3, 1, 1)}
    for frame in out("LatentRotate", samples=video, rotation=turn)["samples"].unbind(2):
        assert torch.equal(frame, turned.movedim(-1, 1))
    for frame in out("LatentFlip", samples=video, flip_method=flip)["samples"].unbind(2):
        assert torch.equal(frame, flipped.movedim(-1, 1))


def test_turns_are_clockwise_and_flips_pillows(out: Out) -> None:
    image = pictures(1, 5, 7, 3)
    picture = Image.fromarray((image[0] * 255).to(torch.uint8).numpy())

    def as_bytes(result: torch.Tensor) -> np.ndarray:
        return (result[0] * 255).to(torch.uint8).numpy()

    turned = out("ImageRotate", image=image, rotation="90 degrees")
    assert np.array_equal(as_bytes(turned), np.asarray(picture.transpose(Image.Transpose.ROTATE_270)))
    for method, transpose in zip(
        FLIPS, (Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.FLIP_LEFT_RIGHT), strict=True
    ):
        flipped = out("ImageFlip", image=image, flip_method=method)
        assert np.array_equal(as_bytes(flipped), np.asarray(picture.transpose(transpose)))


@pytest.mark.parametrize(
    ("size", "largest", "expected"),
    [((10, 20), 40, (20, 40)), ((20, 10), 40, (40, 20)), ((10, 10), 7, (7, 7)), ((1, 30), 5, (1, 5))],
)
def test_largest_side(out: Out, size: tuple[int, int], largest: int, expected: tuple[int, int]) -> None:
    for method in ("area", "lanczos"):
        scaled = out(
            "ImageScaleToMaxDimension",
            image=pictures(1, *size, 3),
            upscale_method=method,
            largest_size=largest,
        )
        assert scaled.shape[1:3] == expected


def stitch(out: Out, image1: torch.Tensor, image2: torch.Tensor | None, **more: Any) -> torch.Tensor:
    values = {"direction": "right", "match_image_size": False, "spacing_width": 0, "spacing_color": "white"}
    values |= more
    return out("ImageStitch", image1=image1, **({} if image2 is None else {"image2": image2}), **values)


def test_stitch_directions(out: Out) -> None:
    a, b = pictures(1, 4, 4, 3), pictures(1, 4, 4, 3, seed=1)
    assert torch.equal(stitch(out, a, b), torch.cat((a, b), 2))
    assert torch.equal(stitch(out, a, b, direction="left"), torch.cat((b, a), 2))
    assert torch.equal(stitch(out, a, b, direction="down"), torch.cat((a, b), 1))
    assert torch.equal(stitch(out, a, b, direction="up"), torch.cat((b, a), 1))
    assert stitch(out, a, None) is a


def test_stitch_fills(out: Out) -> None:
    a, b = pictures(1, 5, 4, 3), pictures(3, 2, 6, 4, seed=1)
    result = stitch(out, a, b, spacing_width=3, spacing_color="red")
    assert result.shape == (3, 5, 4 + 4 + 6, 4)
    assert torch.equal(result[2, :, :4, :3], a[0])
    assert result[..., :4, 3].min() == 1
    assert result[1, 2, 5].tolist() == [1, 0, 0, 1]
    # An odd row goes below, and only white fills with white.
    assert torch.equal(result[:, 1:3, 8:], b)
    assert result[:, 0, 8:].max() == result[:, 3:, 8:].max() == 0
    assert stitch(out, a, b)[:, 3:, 4:].min() == 1


def test_stitch_matches_the_side(out: Out) -> None:
    a, b = pictures(1, 8, 4, 3), torch.full((1, 4, 6, 3), 0.2)
    right = stitch(out, a, b, match_image_size=True)
    assert right.shape == (1, 8, 4 + 12, 3)
    assert (right[:, :, 4:] - 0.2).abs().max() < 1 / 255
    assert stitch(out, a, b, match_image_size=True, direction="down").shape == (1, 8 + 2, 4, 3)


@quick
@given(
    sizes, sizes, st.sampled_from(["white", "black"]), st.sampled_from(["nearest-exact", "lanczos", "area"])
)
def test_resize_and_pad(
    out: Out, size: tuple[int, int], wanted: tuple[int, int], color: str, method: str
) -> None:
    framed = out(
        "ResizeAndPadImage",
        image=torch.full((2, *size, 3), 0.5),
        target_width=wanted[1],
        target_height=wanted[0],
        padding_color=color,
        interpolation=method,
    )
    assert framed.shape == (2, *wanted, 3)
    inner = (framed - 0.5).abs() < 0.01
    scale = min(wanted[0] / size[0], wanted[1] / size[1])
    assert inner[0, ..., 0].sum() == max(1, int(size[0] * scale)) * max(1, int(size[1] * scale))
    assert (framed[~inner] == (1.0 if color == "white" else 0.0)).all()


def test_size(out: Out) -> None:
    assert out("GetImageSize", image=pictures(3, 4, 5, 3)) == (5, 4, 3)


def test_bounding_box(out: Out) -> None:
    box = {"x": 1, "y": 2, "width": 3, "height": 4}
    assert out("PrimitiveBoundingBox", **box) == box


def cut_out(out: Out, images: torch.Tensor, masks: torch.Tensor, **more: Any) -> torch.Tensor:
    values = {"width": 64, "height": 64, "pad_factor": 1.0, "grow_mask": 0, "background": "#00ff00"} | more
    return out("ImageCropToMask", images=images, masks=masks, **values)


def test_subject_fills_the_picture(out: Out) -> None:
    image = torch.zeros(2, 100, 80, 3)
    image[:, 20:40, 50:70, 0] = 1
    mask = torch.zeros(1, 100, 80)
    mask[:, 20:40, 50:70] = 1
    large = {"width": 128, "height": 128}
    result = cut_out(out, image, mask, **large)
    assert result.shape == (2, 128, 128, 3)
    # The middle of an even number of pixels is rounded down: a line of background is left.
    inside = result[:, 20:, 20:]
    assert inside[..., 0].min() > 0.95
    assert inside[..., 1:].max() < 0.05
    # Twice as wide: the other half is background, and so is what lies beyond the picture.
    wide = cut_out(out, image, mask, pad_factor=2.0, **large)
    assert wide[:, 64, 64, 0].min() > 0.95
    background = torch.tensor([0.0, 1, 0])
    assert torch.allclose(wide[:, 4, 64], background, atol=0.05)
    assert torch.allclose(wide[:, 64, -2], background, atol=0.05)


def test_a_mask_that_is_the_wrong_way_round_is_noticed(out: Out) -> None:
    image = pictures(1, 60, 60, 3)
    mask = torch.zeros(1, 60, 60)
    mask[:, 10:50, 12:48] = 1
    assert torch.equal(cut_out(out, image, 1 - mask), cut_out(out, image, mask))


def test_subject_without_a_mask_is_the_whole(out: Out) -> None:
    image = torch.full((1, 30, 40, 3), 0.5)
    result = cut_out(out, image, torch.full((1, 30, 40), 0.5), background="none")
    assert (result - 0.25).abs().max() < 0.01


def test_subject_masks_may_have_another_size_but_not_another_number(out: Out) -> None:
    mask = torch.zeros(1, 10, 10)
    mask[:, 2:5, 2:5] = 1
    assert cut_out(out, torch.rand(2, 50, 50, 4), mask).shape == (2, 64, 64, 3)
    with pytest.raises(ValueError, match="2 pictures and 3 masks"):
        cut_out(out, torch.rand(2, 50, 50, 3), mask.repeat(3, 1, 1))
