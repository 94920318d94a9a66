"""The nodes that compute pictures and masks, against Pillow and values worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

Out = Callable[..., Any]
METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]


def random_images(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_empty_image(out: Out) -> None:
    image = out("EmptyImage", width=3, height=2, batch_size=4, color=0xFF8000)
    assert image.shape == (4, 2, 3, 3)
    assert image.dtype == torch.float32
    assert torch.equal(image[3, 1, 2], torch.tensor([255, 128, 0]) / 255)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_lanczos_is_pillows(out: Out, channels: int) -> None:
    images = random_images(2, 11, 17, channels)
    scaled = out("ImageScale", image=images, upscale_method="lanczos", width=9, height=23, crop="disabled")
    assert scaled.shape == (2, 23, 9, channels)
    for image, got in zip(images, scaled, strict=True):
        data = (255 * image.numpy()).astype(np.uint8)
        picture = Image.fromarray(data[..., 0] if channels == 1 else data).resize(
            (9, 23), Image.Resampling.LANCZOS
        )
        assert np.array_equal(
            got.numpy().reshape(23, 9, channels), np.array(picture, np.float32).reshape(got.shape) / 255
        )


def test_nearest_and_area_by_hand(out: Out) -> None:
    image = torch.arange(8.0).reshape(1, 2, 4, 1) / 8
    half = out("ImageScale", image=image, upscale_method="area", width=2, height=1, crop="disabled")
    assert half[0, 0, :, 0].tolist() == [2.5 / 8, 4.5 / 8]
    twice = out("ImageScaleBy", image=image, upscale_method="nearest-exact", scale_by=2.0)
    assert torch.equal(twice, image.repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_bilinear_has_pixel_centres_at_halves_and_no_antialiasing(out: Out) -> None:
    image = torch.tensor([0.0, 1.0]).reshape(1, 1, 2, 1)
    wide = out("ImageScale", image=image, upscale_method="bilinear", width=4, height=1, crop="disabled")
    assert wide.flatten().tolist() == [0, 0.25, 0.75, 1]
    image = torch.tensor([0.0, 1.0, 1.0, 1.0, 0, 0, 0, 0]).reshape(1, 1, 8, 1)
    small = out("ImageScale", image=image, upscale_method="bilinear", width=2, height=1, crop="disabled")
    assert small.flatten().tolist() == [1, 0]


def test_bicubic_weights(out: Out) -> None:
    """Keys' kernel with a = -0.75, a quarter of a pixel off."""
    image = torch.tensor([0.0, 0, 1, 0, 0]).reshape(1, 1, 5, 1)
    wide = out("ImageScale", image=image, upscale_method="bicubic", width=10, height=1, crop="disabled")

    def kernel(x: float, a: float = -0.75) -> float:
        x = abs(x)
        return (a + 2) * x**3 - (a + 3) * x**2 + 1 if x <= 1 else a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a

    expected = [kernel(x) for x in (1.75, 1.25, 0.75, 0.25)]
    assert wide.flatten().tolist()[1:5] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_center_crop_cuts_before_resizing(out: Out, method: str) -> None:
    image = torch.zeros(1, 10, 30, 3)
    image[:, :, 10:20] = 1
    cut = out("ImageScale", image=image, upscale_method=method, width=20, height=20, crop="center")
    assert cut.shape == (1, 20, 20, 3)
    assert cut.min() > 0.99
    tall = image.transpose(1, 2)
    assert out("ImageScale", image=tall, upscale_method=method, width=5, height=5, crop="center").min() > 0.99


def test_center_crop_rounds_what_is_cut(out: Out) -> None:
    # 7 wide to a square of 4: (7 - 4) / 2 = 1.5 rounds to 2 (half to even), so 3 columns stay.
    image = torch.arange(7.0).expand(1, 4, 7).unsqueeze(-1) / 7
    cut = out("ImageScale", image=image, upscale_method="nearest-exact", width=3, height=3, crop="center")
    assert torch.allclose(cut[0, 0, :, 0], torch.tensor([2.0, 3, 4]) / 7)


@pytest.mark.parametrize(
    ("width", "height", "size"), [(0, 50, (50, 100)), (100, 0, (50, 100)), (0, 0, (10, 20))]
)
def test_zero_keeps_the_aspect(out: Out, width: int, height: int, size: tuple[int, int]) -> None:
    image = random_images(1, 10, 20, 3)
    scaled = out(
        "ImageScale", image=image, upscale_method="area", width=width, height=height, crop="disabled"
    )
    assert scaled.shape[1:3] == size


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    wanted=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    method=st.sampled_from(METHODS),
    crop=st.sampled_from(["center", "disabled"]),
)
def test_any_size_to_any_size(
    out: Out, size: tuple[int, int], wanted: tuple[int, int], method: str, crop: str
) -> None:
    image = torch.full((1, *size, 3), 0.2)
    height, width = wanted
    scaled = out("ImageScale", image=image, upscale_method=method, width=width, height=height, crop=crop)
    assert scaled.shape == (1, height, width, 3)
    assert torch.allclose(scaled, torch.tensor(0.2), atol=1e-5)


def test_scale_by_never_gives_nothing(out: Out) -> None:
    image = random_images(1, 10, 10, 3)
    assert out("ImageScaleBy", image=image, upscale_method="area", scale_by=0.01).shape == (1, 1, 1, 3)


def test_invert(out: Out) -> None:
    image = random_images(1, 2, 3, 3)
    assert torch.equal(out("ImageInvert", image=image), 1 - image)
    assert torch.equal(out("InvertMask", mask=image[..., 0]), 1 - image[..., 0])


def test_batch(out: Out) -> None:
    first, second = random_images(2, 4, 6, 3), random_images(1, 4, 6, 3)
    assert torch.equal(out("ImageBatch", image1=first, image2=second), torch.cat((first, second)))


def test_batch_makes_sizes_and_channels_equal(out: Out) -> None:
    first, second = torch.zeros(1, 4, 6, 3), torch.full((2, 8, 30, 4), 0.25)
    batch = out("ImageBatch", image1=first, image2=second)
    assert batch.shape == (3, 4, 6, 4)
    assert batch[0, ..., 3].min() == 1
    assert torch.equal(batch[1:], torch.full((2, 4, 6, 4), 0.25))
    assert out("ImageBatch", image1=second, image2=first)[2, ..., 3].min() > 0.999


def expected_mask(size: tuple[int, int], sides: tuple[int, int, int, int], feathering: int) -> np.ndarray:
    """Pixel by pixel, from what ComfyUI's documentation of the node says."""
    (height, width), (left, top, right, bottom) = size, sides
    mask = np.ones((top + height + bottom, left + width + right), np.float32)
    for y in range(height):
        for x in range(width):
            distances = (
                [y] * (top > 0) + [height - y] * (bottom > 0) + [x] * (left > 0) + [width - x] * (right > 0)
            )
            nearest = min(distances, default=feathering)
            soft = 0 < feathering * 2 < min(height, width) and nearest < feathering
            mask[top + y, left + x] = ((feathering - nearest) / feathering) ** 2 if soft else 0
    return mask


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    sides=st.tuples(*[st.sampled_from([0, 8, 16])] * 4),
    feathering=st.integers(0, 14),
)
def test_pad_for_outpaint(
    out: Out, size: tuple[int, int], sides: tuple[int, int, int, int], feathering: int
) -> None:
    left, top, right, bottom = sides
    image = random_images(2, *size, 3)
    padded, mask = out(
        "ImagePadForOutpaint",
        image=image,
        left=left,
        top=top,
        right=right,
        bottom=bottom,
        feathering=feathering,
    )
    inner = padded[:, top : top + size[0], left : left + size[1]]
    assert torch.equal(inner, image)
    assert padded.sum().item() == pytest.approx(
        image.sum().item() + 0.5 * (padded.numel() - image.numel()), rel=1e-5
    )
    assert np.array_equal(mask[0].numpy(), expected_mask(size, sides, feathering))


def test_crop(out: Out) -> None:
    image = random_images(1, 10, 12, 3)
    assert torch.equal(out("ImageCrop", image=image, width=4, height=3, x=2, y=5), image[:, 5:8, 2:6])
    assert out("ImageCrop", image=image, width=100, height=100, x=100, y=8).shape == (1, 2, 1, 3)


def test_masks_and_pictures(out: Out) -> None:
    mask = out("SolidMask", value=0.25, width=3, height=2)
    assert torch.equal(mask, torch.full((1, 2, 3), 0.25))
    assert torch.equal(out("MaskToImage", mask=mask), torch.full((1, 2, 3, 3), 0.25))
    assert out("MaskToImage", mask=mask[0]).shape == (1, 2, 3, 3)
    image = random_images(2, 4, 5, 4)
    for index, channel in enumerate(["red", "green", "blue", "alpha"]):
        assert torch.equal(out("ImageToMask", image=image, channel=channel), image[..., index])


def test_a_channel_that_is_not_there_is_named(out: Out) -> None:
    with pytest.raises(ValueError, match="no alpha channel"):
        out("ImageToMask", image=random_images(1, 2, 2, 3), channel="alpha")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PrimitiveInt", 2**60),
        ("PrimitiveFloat", 0.5),
        ("PrimitiveString", "a"),
        ("PrimitiveStringMultiline", "a\nb"),
        ("PrimitiveBoolean", False),
    ],
)
def test_primitives(out: Out, name: str, value: Any) -> None:
    assert out(name, value=value) is value


class Mute:
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("text", "text"),
        (3, "3"),
        (True, "True"),
        (1.5, "1.5"),
        (None, "None"),
        ({"ä": [1]}, '{\n    "ä": [\n        1\n    ]\n}'),
        ({1, 2}, "{1, 2}"),
        (torch.tensor([1.0, 2.0]), "tensor([1., 2.])"),
        (
            torch.arange(2000),
            "tensor([   0,    1,    2,    3,    4,    5,  ..., 1994, 1995, 1996, 1997, 1998,\n        1999])",
        ),
        (Mute(), "a Mute that has no text (no)"),
    ],
)
def test_preview_any(run: Out, value: Any, text: str) -> None:
    result = run("PreviewAny", source=value)
    assert result.values == (text,)
    assert result.ui == {"text": [text]}
