"""Noise, edges, and pictures and latents over others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Out = Callable[..., Any]
quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
sizes = st.tuples(st.integers(1, 12), st.integers(1, 12))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_noise(out: Out) -> None:
    image = torch.full((2, 40, 40, 3), 0.5)
    state = torch.random.get_rng_state()
    noisy = out("ImageAddNoise", image=image, seed=7, strength=0.1)
    assert torch.equal(torch.random.get_rng_state(), state)
    expected = image + 0.1 * torch.randn(image.shape, generator=torch.Generator().manual_seed(7))
    assert torch.equal(noisy, expected.clamp(0, 1))
    assert torch.equal(out("ImageAddNoise", image=image, seed=2**64 - 1, strength=0.0), image)


def canny(out: Out, image: torch.Tensor, low: float = 0.4, high: float = 0.8) -> torch.Tensor:
    return out("Canny", image=image, low_threshold=low, high_threshold=high)


def test_edge_of_a_square(out: Out) -> None:
    image = torch.zeros(1, 24, 24, 3)
    image[:, 8:16, 8:16] = 1
    edges = canny(out, image)
    assert edges.shape == image.shape
    assert set(edges.unique().tolist()) == {0, 1}
    # A line one or two pixels wide, nowhere farther than one from where black meets white.
    line = edges[0, ..., 0].numpy().astype(bool)
    square = image[0, ..., 0].numpy().astype(bool)
    around = np.ones((3, 3))
    inside = np.asarray(scipy.ndimage.binary_erosion(square, around), bool)
    beside = np.asarray(scipy.ndimage.binary_dilation(square, around), bool)
    near_line = np.asarray(scipy.ndimage.binary_dilation(line, around), bool)
    assert not line[inside].any()
    assert line.sum() == line[beside].sum()
    assert near_line[square & np.logical_not(inside)].all()


def test_canny_step_by_step(out: Out) -> None:
    """The same with scipy and loops."""
    image = scipy.ndimage.gaussian_filter(random(30, 40).numpy().astype(np.float64), 2)
    image = (image - image.min()) / (image.max() - image.min())
    weights = np.exp(-0.5 * np.arange(-2, 3) ** 2)
    smooth = image
    for axis in (0, 1):
        smooth = scipy.ndimage.correlate1d(smooth, weights / weights.sum(), axis, mode="mirror")
    right, down = (scipy.ndimage.sobel(smooth, axis, mode="nearest") for axis in (1, 0))
    steep = np.pad(np.sqrt(right**2 + down**2 + 1e-6), 1, constant_values=1e-3)
    thin = np.zeros_like(image)
    for y, x in np.ndindex(*image.shape):
        turn = round(float(np.arctan2(down[y, x], right[y, x]) / (np.pi / 4)))
        dx, dy = ((1, 0), (1, 1), (0, 1), (-1, 1))[turn % 4]
        here = steep[y + 1, x + 1]
        if here > steep[y + 1 + dy, x + 1 + dx] and here > steep[y + 1 - dy, x + 1 - dx]:
            thin[y, x] = here
    low, high = 0.15, 0.45
    labels = np.zeros(image.shape, np.int32)
    scipy.ndimage.label(thin > low, np.ones((3, 3)), labels)
    expected = np.isin(labels, np.unique(labels[thin > high])) & (labels > 0)
    assert expected.any()
    assert (expected != (thin > low)).any()
    grey = torch.from_numpy(image).float().reshape(1, 30, 40, 1)
    assert np.array_equal(canny(out, grey, low, high)[0, ..., 0].numpy().astype(bool), expected)
    assert torch.equal(canny(out, grey.repeat(1, 1, 1, 3), low, high), canny(out, grey, low, high))


def test_canny_of_odd_pictures(out: Out) -> None:
    for shape in ((2, 1, 1, 3), (1, 2, 9, 4), (1, 3, 3, 1)):
        assert canny(out, random(*shape)).shape == (*shape[:3], 3)
    assert canny(out, torch.full((1, 9, 9, 3), 0.5)).max() == 0
    with pytest.raises(ValueError, match=r"low_threshold is 0\.8"):
        canny(out, random(1, 5, 5, 3), 0.8, 0.4)


def lay(
    out: Out, below: torch.Tensor, above: torch.Tensor, mask: torch.Tensor | None = None, **more: Any
) -> Any:
    values = {"x": 0, "y": 0, "resize_source": False} | more | ({} if mask is None else {"mask": mask})
    return out("ImageCompositeMasked", destination=below, source=above, **values)


@quick
@given(sizes, sizes, st.integers(0, 14), st.integers(0, 14))
def test_composite(out: Out, size: tuple[int, int], other: tuple[int, int], x: int, y: int) -> None:
    below, above, mask = random(2, *size, 3), random(1, *other, 3, seed=1), random(1, *other, seed=2)
    before = below.clone()
    plain, masked = lay(out, below, above, x=x, y=y), lay(out, below, above, mask, x=x, y=y)
    assert torch.equal(below, before)
    rows, columns = max(0, min(other[0], size[0] - y)), max(0, min(other[1], size[1] - x))
    expected = below.clone()
    expected[:, y : y + rows, x : x + columns] = above[:, :rows, :columns]
    assert torch.equal(plain, expected)
    share = mask[0, :rows, :columns, None]
    part = expected[:, y : y + rows, x : x + columns] * share
    expected[:, y : y + rows, x : x + columns] = part + below[:, y : y + rows, x : x + columns] * (1 - share)
    assert torch.allclose(masked, expected)


def test_composite_with_other_channels_sizes_and_batches(out: Out) -> None:
    below, above = random(2, 4, 6, 4), torch.full((3, 8, 8, 3), 0.25)
    result = lay(out, below, above, resize_source=True, mask=torch.ones(1, 3, 3))
    assert torch.allclose(result, torch.tensor([0.25, 0.25, 0.25, 1]).expand(2, 4, 6, 4))
    assert lay(out, below[..., :3], random(1, 2, 2, 4)).shape == (2, 4, 6, 3)


@pytest.mark.parametrize("frames", [(), (3,)])
def test_latents_over_latents(out: Out, frames: tuple[int, ...]) -> None:
    below = {"samples": torch.zeros(2, 4, *frames, 6, 6), "batch_index": [3, 4]}
    above = {"samples": torch.ones(1, 4, *frames, 3, 3)}
    masked = out(
        "LatentCompositeMasked",
        destination=below,
        source=above,
        x=17,
        y=32,
        resize_source=False,
        mask=torch.tensor([[[0.5]]]),
    )
    assert masked["batch_index"] == [3, 4]
    assert below["samples"].max() == 0
    expected = torch.zeros(6, 6)
    expected[4:6, 2:5] = 0.5
    assert torch.equal(masked["samples"], expected.expand_as(below["samples"]))
    whole = out("LatentCompositeMasked", destination=below, source=above, x=0, y=0, resize_source=True)
    assert whole["samples"].min() == 1


@pytest.mark.parametrize("frames", [(), (3,)])
def test_feathered_latents(out: Out, frames: tuple[int, ...]) -> None:
    below = {"samples": torch.zeros(1, 4, *frames, 6, 8)}
    above = {"samples": torch.ones(1, 4, *frames, 4, 9)}
    plain = out("LatentComposite", samples_to=below, samples_from=above, x=8, y=0, feather=0)["samples"]
    assert torch.equal(plain[0, 0].sum(-1).reshape(-1, 6)[0], torch.tensor([7.0, 7, 7, 7, 0, 0]))
    soft = out("LatentComposite", samples_to=below, samples_from=above, x=8, y=0, feather=16)["samples"]
    plane = soft[0, 0].reshape(-1, 6, 8)[-1]
    # Soft at the left and at the bottom, sharp where it meets the edges of the latent.
    assert plane[0].tolist() == [0, 0.5, 1, 1, 1, 1, 1, 1]
    assert plane[:, 4].tolist() == [1, 1, 1, 0.5, 0, 0]
    assert below["samples"].max() == 0
