"""Batches of pictures: repeating, taking, regrouping, tiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Out = Callable[..., Any]
quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def numbered(batch: int, first: int = 0) -> torch.Tensor:
    return (torch.arange(first, first + batch) / 100).reshape(-1, 1, 1, 1).repeat(1, 2, 3, 3)


def test_repeat(out: Out) -> None:
    assert torch.equal(out("RepeatImageBatch", image=numbered(2), amount=3), numbered(2).repeat(3, 1, 1, 1))


@pytest.mark.parametrize(
    ("index", "length", "expected"),
    [(0, 1, [0]), (2, 2, [2, 3]), (3, 9, [3, 4]), (-2, 9, [3, 4]), (-9, 1, [0]), (99, 2, [4])],
)
def test_from_batch(out: Out, index: int, length: int, expected: list[int]) -> None:
    image = numbered(5)
    taken = out("ImageFromBatch", image=image, batch_index=index, length=length)
    assert torch.equal(taken, image[expected])
    assert taken.data_ptr() != image[expected[0]].data_ptr()


@quick
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(1, 5))
def test_rebatch_keeps_all_in_order(out: Out, batches: list[int], size: int) -> None:
    images = [numbered(batch, sum(batches[:number])) for number, batch in enumerate(batches)]
    regrouped = out("RebatchImages", images=images, batch_size=[size])
    assert torch.equal(torch.cat(regrouped), torch.cat(images))
    assert [len(one) for one in regrouped[:-1]] == [size] * (len(regrouped) - 1)
    assert 1 <= len(regrouped[-1]) <= size


@quick
@given(
    size=st.tuples(st.integers(64, 200), st.integers(64, 200)),
    tile=st.tuples(st.integers(64, 128), st.integers(64, 128)),
    overlap=st.integers(0, 100),
)
def test_tiles_make_the_picture_again(
    out: Out, size: tuple[int, int], tile: tuple[int, int], overlap: int
) -> None:
    image = torch.rand((2, *size, 3), generator=torch.Generator().manual_seed(0))
    tiles = out("SplitImageToTileList", image=image, tile_width=tile[1], tile_height=tile[0], overlap=overlap)
    assert {one.shape for one in tiles} == {(2, min(tile[0], size[0]), min(tile[1], size[1]), 3)}
    merged = out(
        "ImageMergeTileList",
        image_list=tiles,
        final_width=[size[1]],
        final_height=[size[0]],
        overlap=[overlap],
    )
    assert torch.allclose(merged, image, atol=1e-5)


def test_where_tiles_begin(out: Out) -> None:
    image = (torch.arange(200.0) / 200).reshape(1, 1, -1, 1).repeat(1, 64, 1, 3)
    tiles = out("SplitImageToTileList", image=image, tile_width=80, tile_height=64, overlap=20)
    assert [round(float(tile[0, 0, 0, 0]) * 200) for tile in tiles] == [0, 60, 120]
    # An overlap of more than three quarters is no more than that.
    many = out("SplitImageToTileList", image=image, tile_width=80, tile_height=64, overlap=79)
    assert [round(float(tile[0, 0, 0, 0]) * 200) for tile in many] == [0, 20, 40, 60, 80, 100, 120]


def test_missing_tiles_are_black(out: Out) -> None:
    image = torch.ones(1, 64, 100, 3)
    tiles = out("SplitImageToTileList", image=image, tile_width=64, tile_height=64, overlap=0)
    merged = out(
        "ImageMergeTileList", image_list=tiles[:1], final_width=[100], final_height=[64], overlap=[0]
    )
    assert torch.equal(merged[:, :, :64], image[:, :, :64])
    assert merged[:, :, 64:].max() == 0
