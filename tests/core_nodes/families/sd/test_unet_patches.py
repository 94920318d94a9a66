"""What nodes hook into the UNet, as third-party nodes use it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfyk_core_nodes.families.sd.unet import ResBlock, UNetModel
from comfyk_core_nodes.weights.attention import attention
from torch import Tensor

from ...tiny_models import make_unet

pytestmark = pytest.mark.usefixtures("seeded")

X = torch.ones(1, 4, 8, 8)
T = torch.tensor([10.0])


@pytest.fixture(scope="module")
def unet() -> UNetModel:
    torch.manual_seed(1)
    model = make_unet("sd1")
    assert isinstance(model, UNetModel)
    return model


@pytest.fixture(scope="module")
def context() -> Tensor:
    return torch.randn(1, 5, 64)


def run(unet: UNetModel, context: Tensor, options: dict[str, Any] | None = None, **kwargs: Any) -> Tensor:
    return unet(X, T, context, transformer_options={} if options is None else options, **kwargs)


def test_patches_that_change_nothing(unet: UNetModel, context: Tensor) -> None:
    seen: list[tuple[Any, ...]] = []

    def attn(n: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        seen.append((*extra["block"], extra["block_index"], extra["transformer_index"], extra["n_heads"]))
        return n, k, v

    def replace(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
        assert extra["original_shape"] == [1, 4, 8, 8]
        return attention(q, k, v, extra["n_heads"])

    options = {
        "patches": {
            "attn1_patch": [attn],
            "attn2_patch": [attn],
            "attn1_output_patch": [lambda n, extra: n],
            "attn2_output_patch": [lambda n, extra: n],
            "middle_patch": [lambda x, extra: x],
            "input_block_patch": [lambda h, options: h],
            "input_block_patch_after_skip": [lambda h, options: h],
            "output_block_patch": [lambda h, skip, options: (h, skip)],
            "middle_block_after_patch": [lambda given: {"h": given["h"]}],
            "emb_patch": [lambda emb, channels, options: emb],
        },
        "patches_replace": {
            "attn1": {("input", 1): replace},
            "attn2": {("middle", 0, 0): replace, ("output", 2): replace},
        },
    }
    expected = run(unet, context)
    assert torch.allclose(run(unet, context, options), expected, atol=1e-5)
    places = [("input", 1, 0, 0), ("middle", 0, 0, 1), ("output", 2, 0, 2), ("output", 3, 0, 3)]
    assert [entry[:4] for entry in seen] == [place for place in places for _ in range(2)]
    assert {entry[4] for entry in seen} == {8}


@pytest.mark.parametrize("kind", ["attn1", "attn2"])
def test_a_replacement_counts_for_its_block_only(unet: UNetModel, context: Tensor, kind: str) -> None:
    calls: list[tuple[Any, ...]] = []

    def nothing(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
        calls.append(extra["block"])
        return torch.zeros_like(q)

    options = {"patches_replace": {kind: {("output", 3, 0): nothing, ("output", 3, 1): nothing}}}
    assert not torch.allclose(run(unet, context, options), run(unet, context))
    assert calls == [("output", 3)]


def test_an_override_of_the_attention(unet: UNetModel, context: Tensor) -> None:
    calls = 0

    def override(function: Any, *args: Any, **kwargs: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return function(*args, **kwargs)

    options = {"optimized_attention_override": override}
    assert torch.equal(run(unet, context, options), run(unet, context))
    assert calls == 8


def test_block_patches_change_the_result(unet: UNetModel, context: Tensor) -> None:
    expected = run(unet, context)
    for name, patch in (
        ("input_block_patch", lambda h, options: h * 2),
        ("output_block_patch", lambda h, skip, options: (h, skip * 0)),
        ("middle_patch", lambda x, extra: x + 1),
        ("emb_patch", lambda emb, channels, options: emb + 1),
    ):
        assert not torch.allclose(run(unet, context, {"patches": {name: [patch]}}), expected), name


def test_a_patch_in_place_of_a_kind_of_layer(unet: UNetModel, context: Tensor) -> None:
    handled = []

    def handler(layer: ResBlock, x: Tensor, emb: Tensor, *rest: Any) -> Tensor:
        handled.append(layer)
        return layer(x, emb)

    options = {"patches": {"forward_timestep_embed_patch": [(ResBlock, handler)]}}
    assert torch.equal(run(unet, context, options), run(unet, context))
    assert len(handled) == 2 + 2 + 4


def test_control_residuals_are_taken_from_the_end(unet: UNetModel, context: Tensor) -> None:
    expected = run(unet, context)
    zeros = {"input": [torch.zeros(1)] * 4, "middle": [torch.zeros(1)], "output": [None] * 4}
    assert torch.equal(run(unet, context, control=zeros), expected)
    assert zeros == {"input": [], "middle": [], "output": []}
    assert not torch.allclose(run(unet, context, control={"output": [torch.ones(1)]}), expected)
    # One that does not fit is left out.
    assert torch.equal(run(unet, context, control={"middle": [torch.ones(3, 3)]}), expected)


def test_odd_sizes_come_back(unet: UNetModel, context: Tensor) -> None:
    assert unet(torch.ones(1, 4, 7, 9), T, context).shape == (1, 4, 7, 9)


def test_a_batch_equals_its_items(unet: UNetModel) -> None:
    x, context = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 64)
    timesteps = torch.tensor([10.0, 900.0])
    both = unet(x, timesteps, context)
    for i in range(2):
        one = unet(x[i : i + 1], timesteps[i : i + 1], context[i : i + 1])
        assert torch.allclose(both[i : i + 1], one, atol=1e-5)


def test_a_missing_vector_is_named() -> None:
    with pytest.raises(ValueError, match="y is missing"):
        make_unet("sdxl")(X, T, torch.randn(1, 5, 128))
