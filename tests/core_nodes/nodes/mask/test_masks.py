"""Masks, against numpy, scipy and values worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
from comfyk.app import App
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

Out = Callable[..., Any]
quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
sizes = st.tuples(st.integers(1, 12), st.integers(1, 12))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_color_to_mask(out: Out) -> None:
    image = torch.tensor([[255, 128, 0], [255, 128, 1], [255.4, 127.6, -3]]).reshape(1, 1, 3, 3) / 255
    assert out("ImageColorToMask", image=image, color=0xFF8000).tolist() == [[[1, 0, 1]]]


def test_crop(out: Out) -> None:
    mask = random(2, 6, 7)
    assert torch.equal(out("CropMask", mask=mask, x=2, y=1, width=3, height=50), mask[:, 1:, 2:5])
    assert torch.equal(out("CropMask", mask=mask[0], x=0, y=0, width=2, height=2), mask[:1, :2, :2])


def test_threshold(out: Out) -> None:
    mask = torch.tensor([[[0.2, 0.5, 0.7]]])
    assert out("ThresholdMask", mask=mask, value=0.5).tolist() == [[[0, 0, 1]]]


OPERATIONS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "multiply": lambda a, b: a * b,
    "add": lambda a, b: np.minimum(a + b, 1),
    "subtract": lambda a, b: np.maximum(a - b, 0),
    "and": lambda a, b: (a > 0.5) & (b > 0.5),
    "or": lambda a, b: (a > 0.5) | (b > 0.5),
    "xor": lambda a, b: (a > 0.5) ^ (b > 0.5),
}


@quick
@given(sizes, sizes, st.integers(0, 14), st.integers(0, 14), st.sampled_from(list(OPERATIONS)))
def test_composite(
    out: Out, size: tuple[int, int], other: tuple[int, int], x: int, y: int, operation: str
) -> None:
    below, above = random(2, *size), random(1, *other, seed=1)
    before = below.clone()
    result = out("MaskComposite", destination=below, source=above, x=x, y=y, operation=operation)
    assert torch.equal(below, before)
    expected = below.numpy().copy()
    part = expected[:, y : y + other[0], x : x + other[1]]
    part[...] = OPERATIONS[operation](part, above.numpy()[:, : part.shape[1], : part.shape[2]])
    assert np.array_equal(result.numpy(), expected)


@quick
@given(sizes, st.tuples(*[st.integers(0, 14)] * 4))
def test_feather(out: Out, size: tuple[int, int], sides: tuple[int, int, int, int]) -> None:
    height, width = size
    left, top, right, bottom = (
        min(side, limit) for side, limit in zip(sides, (width, height) * 2, strict=True)
    )
    mask = random(2, *size)
    result = out("FeatherMask", mask=mask, left=sides[0], top=sides[1], right=sides[2], bottom=sides[3])
    for y in range(height):
        for x in range(width):
            factor = 1.0
            for place, side in ((x, left), (width - 1 - x, right), (y, top), (height - 1 - y, bottom)):
                factor *= (place + 1) / side if place < side else 1
            assert torch.allclose(result[:, y, x], mask[:, y, x] * factor, atol=1e-6)


@quick
@given(sizes, st.integers(-5, 5), st.booleans())
def test_grow_is_scipys(out: Out, size: tuple[int, int], pixels: int, tapered: bool) -> None:
    mask = random(2, *size)
    before = mask.clone()
    footprint = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]]) if tapered else np.ones((3, 3))
    step = scipy.ndimage.grey_dilation if pixels > 0 else scipy.ndimage.grey_erosion
    expected = mask.numpy()
    for _ in range(abs(pixels)):
        expected = np.stack([step(one, footprint=footprint) for one in expected])
    grown = out("GrowMask", mask=mask, expand=pixels, tapered_corners=tapered)
    assert np.array_equal(grown.numpy(), expected)
    assert torch.equal(mask, before)
    assert grown.data_ptr() != mask.data_ptr()


@pytest.mark.parametrize("tapered", [True, False])
@pytest.mark.parametrize("pixels", [16384, -16384])
def test_growing_without_end_is_quick(out: Out, pixels: int, tapered: bool) -> None:
    mask = random(1, 40, 50)
    grown = out("GrowMask", mask=mask, expand=pixels, tapered_corners=tapered)
    assert (grown == (mask.max() if pixels > 0 else mask.min())).all()


def test_preview(app: App, run: Out) -> None:
    mask = torch.tensor([[[0.0, 1.0], [0.5, 0.25]]])
    result = run("MaskPreview", mask=mask, prompt={"1": {}})
    assert result.values == (mask,)
    (shown,) = result.ui["images"]
    with Image.open(app.folders.temp / shown["filename"]) as picture:
        assert np.asarray(picture)[..., 1].tolist() == [[0, 255], [127, 63]]
        assert picture.info["prompt"] == '{"1": {}}'
