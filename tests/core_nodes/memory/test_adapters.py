"""Each kind of adapter against a dense computation of its own, and what strength means."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from comfyk_core_nodes.memory.adapters import WeightAdapter
from comfyk_core_nodes.memory.patches import calculate_weight, patched_weight
from comfyk_core_nodes.memory.rounding import stochastic_rounding
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

OUT, IN, RANK = 6, 4, 2


def rand(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def lora_linear(w: Tensor) -> tuple[tuple[Any, ...], Tensor]:
    up, down = rand(OUT, RANK, seed=1), rand(RANK, IN, seed=2)
    return (up, down, 3.0, None, None, None), 3.0 / RANK * up @ down


def lora_conv(w: Tensor) -> tuple[tuple[Any, ...], Tensor]:
    up, down = rand(OUT, RANK, 1, 1, seed=1), rand(RANK, IN, 3, 3, seed=2)
    dense = torch.zeros(OUT, IN, 3, 3, dtype=torch.float64)
    for r in range(RANK):
        dense += up[:, r, 0, 0][:, None, None, None] * down[r][None]
    return (up, down, None, None, None, None), dense


def lora_tucker(w: Tensor) -> tuple[tuple[Any, ...], Tensor]:
    """The three convolutions of a LoCon one after the other, applied to unit pictures, are the dense kernel."""
    up, mid, down = (
        rand(OUT, RANK, 1, 1, seed=1),
        rand(RANK, RANK, 3, 3, seed=3),
        rand(RANK, IN, 1, 1, seed=2),
    )
    pictures = torch.zeros(IN, IN, 5, 5, dtype=torch.float64)
    for channel in range(IN):
        pictures[channel, channel, 2, 2] = 1
    conv = torch.nn.functional.conv2d
    response = conv(conv(conv(pictures, down), mid), up)
    return (up, down, 1.0, mid, None, None), response.flip(-1, -2).transpose(0, 1) / RANK


def loha(w: Tensor) -> tuple[tuple[Any, ...], Tensor]:
    a1, b1, a2, b2 = (rand(*shape, seed=n) for n, shape in enumerate([(OUT, RANK), (RANK, IN)] * 2))
    dense = torch.tensor(
        [
            [
                sum(a1[o, r] * b1[r, i] for r in range(RANK)) * sum(a2[o, r] * b2[r, i] for r in range(RANK))
                for i in range(IN)
            ]
            for o in range(OUT)
        ],
        dtype=torch.float64,
    )
    return (a1, b1, 1.0, a2, b2, None, None, None), dense / RANK


def loha_tucker(w: Tensor) -> tuple[tuple[Any, ...], Tensor]:
    """LyCORIS keeps `w_a` as [rank, out] and `w_b` as [rank, in] where there is a core [rank, rank, kh, kw]."""
    a1, a2, b1, b2 = (rand(RANK, n, seed=s) for s, n in enumerate([OUT, OUT, IN, IN]))
    t1, t2 = rand(RANK, RANK, 3, 3, seed=7), rand(RANK, RANK, 3, 3, seed=8)

    def rebuild(core: Tensor, a: Tensor, b: Tensor) -> Tensor:
        dense = torch.zeros(OUT, IN, 3, 3, dtype=torch.float64)
        for p in range(RANK):
            for q in range(RANK):
                dense += torch.outer(a[p], b[q])[:, :, None, None] * core[p, q]
        return dense

    return (a1, b1, None, a2, b2, t1, t2, None), rebuild(t1, a1, b1) * rebuild(t2, a2, b2)


def lokr(w: Tensor) -> tuple[tuple[Any, ...], Tensor]:
    w1, w2_a, w2_b = rand(3, 2, seed=1), rand(2, 1, seed=2), rand(1, 2, seed=3)
    w2 = w2_a @ w2_b
    dense = torch.cat([torch.cat([w1[i, j] * w2 for j in range(2)], dim=1) for i in range(3)])
    return (w1, None, 5.0, None, None, w2_a, w2_b, None, None), 5.0 * dense


def lokr_whole_conv(w: Tensor) -> tuple[tuple[Any, ...], Tensor]:
    w1, w2 = rand(3, 2, seed=1), rand(2, 2, 3, 3, seed=2)
    dense = torch.empty(OUT, IN, 3, 3, dtype=torch.float64)
    for o in range(OUT):
        for i in range(IN):
            dense[o, i] = w1[o // 2, i // 2] * w2[o % 2, i % 2]
    # alpha says nothing where there is no rank
    return (w1, w2, 5.0, None, None, None, None, None, None), dense


def lokr_tucker(w: Tensor) -> tuple[tuple[Any, ...], Tensor]:
    w1_a, w1_b = rand(3, 1, seed=1), rand(1, 2, seed=2)
    core, w2_a, w2_b = rand(RANK, RANK, 3, 3, seed=3), rand(RANK, 2, seed=4), rand(RANK, 2, seed=5)
    w2 = sum(
        torch.outer(w2_a[p], w2_b[q])[:, :, None, None] * core[p, q] for p in range(RANK) for q in range(RANK)
    )
    assert isinstance(w2, Tensor)
    dense = torch.empty(OUT, IN, 3, 3, dtype=torch.float64)
    for o in range(OUT):
        for i in range(IN):
            dense[o, i] = w1_a[o // 2, 0] * w1_b[0, i // 2] * w2[o % 2, i % 2]
    return (None, None, 3.0, w1_a, w1_b, w2_a, w2_b, core, None), 3.0 / RANK * dense


def glora(w: Tensor) -> tuple[tuple[Any, ...], Tensor]:
    a1, a2, b1, b2 = (
        rand(*shape, seed=n) for n, shape in enumerate([(IN, RANK), (RANK, IN), (OUT, RANK), (RANK, IN)])
    )
    return (a1, a2, b1, b2, 1.0, None), (w @ a1 @ a2 + b1 @ b2) / RANK


def glora_old(w: Tensor) -> tuple[tuple[Any, ...], Tensor]:
    a1, a2, b1, b2 = (
        rand(*shape, seed=n) for n, shape in enumerate([(RANK, IN), (IN, RANK), (RANK, IN), (OUT, RANK)])
    )
    return (a1, a2, b1, b2, None, None), w @ a2 @ a1 + b2 @ b1


def oft(w: Tensor) -> tuple[tuple[Any, ...], Tensor]:
    blocks = rand(3, 2, 2, seed=1)
    turned = torch.empty_like(w)
    for k in range(3):
        q = blocks[k] - blocks[k].T
        turn = (torch.eye(2) + q) @ torch.linalg.inv(torch.eye(2) - q)
        turned[2 * k : 2 * k + 2] = turn.T @ w[2 * k : 2 * k + 2]
    return (blocks, None, None, None), turned - w


CASES: list[tuple[str, Callable[[Tensor], tuple[tuple[Any, ...], Tensor]], tuple[int, ...]]] = [
    ("lora", lora_linear, (OUT, IN)),
    ("lora", lora_conv, (OUT, IN, 3, 3)),
    ("lora", lora_tucker, (OUT, IN, 3, 3)),
    ("loha", loha, (OUT, IN)),
    ("loha", loha_tucker, (OUT, IN, 3, 3)),
    ("lokr", lokr, (OUT, IN)),
    ("lokr", lokr_whole_conv, (OUT, IN, 3, 3)),
    ("lokr", lokr_tucker, (OUT, IN, 3, 3)),
    ("glora", glora, (OUT, IN)),
    ("glora", glora_old, (OUT, IN)),
    ("oft", oft, (OUT, IN)),
]


@pytest.mark.parametrize(("name", "make", "shape"), CASES, ids=[make.__name__ for _, make, _ in CASES])
def test_the_change_is_the_dense_one(name: str, make: Any, shape: tuple[int, ...]) -> None:
    weight = rand(*shape, seed=99)
    weights, dense = make(weight)
    out = calculate_weight(
        [(1.0, WeightAdapter(name, weights), 1.0, None, None)],
        weight.clone(),
        "w",
        intermediate_dtype=torch.float64,
    )
    torch.testing.assert_close(out, weight + dense, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "make", "shape"), CASES[:-1], ids=[make.__name__ for _, make, _ in CASES[:-1]]
)
@given(strength=st.floats(-3, 3))
@settings(max_examples=10, deadline=None)
def test_the_change_is_linear_in_the_strength(
    name: str, make: Any, shape: tuple[int, ...], strength: float
) -> None:
    weight = rand(*shape, seed=99)
    weights, dense = make(weight)
    patch = (strength, WeightAdapter(name, weights), 1.0, None, None)
    out = calculate_weight([patch], weight.clone(), "w", intermediate_dtype=torch.float64)
    torch.testing.assert_close(out, weight + strength * dense)


@pytest.mark.parametrize(("name", "make", "shape"), CASES, ids=[make.__name__ for _, make, _ in CASES])
def test_strength_zero_changes_nothing(name: str, make: Any, shape: tuple[int, ...]) -> None:
    weight = rand(*shape, seed=99)
    out = calculate_weight(
        [(0.0, WeightAdapter(name, make(weight)[0]), 1.0, None, None)], weight.clone(), "w"
    )
    assert torch.equal(out, weight)


def test_boft_turns_outputs_without_changing_their_length() -> None:
    """Two butterfly steps of 4x4 blocks over 8 outputs: the columns keep their norm, and all outputs mix."""
    weight = rand(8, 3, seed=1).float()
    blocks = rand(2, 2, 4, 4, seed=2).float() * 0.3
    out = calculate_weight(
        [(1.0, WeightAdapter("boft", (blocks, None, None, None)), 1.0, None, None)], weight.clone(), "w"
    )
    torch.testing.assert_close(out.norm(dim=0), weight.norm(dim=0))
    torch.testing.assert_close(out.T @ out, weight.T @ weight)
    assert ((out - weight).abs() > 1e-4).all()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_dora_sets_the_length_of_rows_or_columns(axis: int, strength: float) -> None:
    """Per input, each column of the merged weight has the trained length. Per output ComfyUI divides by the length of
    the unchanged row."""
    weight = rand(OUT, IN, seed=9).float()
    up, down = rand(OUT, RANK, seed=1).float(), rand(RANK, IN, seed=2).float()
    magnitude = torch.rand(OUT, 1) + 0.5 if axis == 0 else torch.rand(1, IN) + 0.5
    adapter = WeightAdapter("lora", (up, down, 1.0, None, magnitude, None))
    out = calculate_weight([(strength, adapter, 1.0, None, None)], weight.clone(), "w")
    merged = weight + up @ down / RANK
    base = weight if axis == 0 else merged
    whole = merged / torch.sqrt((base**2).sum(dim=1 - axis, keepdim=True)) * magnitude
    torch.testing.assert_close(out, weight + strength * (whole - weight), rtol=1e-5, atol=1e-5)
    if axis == 1 and strength == 1.0:
        torch.testing.assert_close(out.norm(dim=0), magnitude[0])


def test_offsets_functions_and_model_strength() -> None:
    weight = rand(6, 4, seed=3)
    change = rand(2, 4, seed=4)
    out = calculate_weight([(2.0, (change,), 0.5, (0, 1, 2), lambda delta: -delta)], weight.clone(), "w")
    expected = weight.clone()
    expected[1:3] = expected[1:3] * 0.5 - 2.0 * change
    torch.testing.assert_close(out, expected)


def test_kinds_of_changes() -> None:
    weight, other = rand(3, 2, seed=1), rand(3, 2, seed=2)

    def applied(value: Any, strength: float = 0.5, strength_model: float = 1.0, **more: Any) -> Tensor:
        return calculate_weight([(strength, value, strength_model, None, None)], weight.clone(), "w", **more)

    torch.testing.assert_close(applied(("diff", (other,))), weight + 0.5 * other)
    torch.testing.assert_close(applied(("set", (other,))), other)
    torch.testing.assert_close(applied((None,), 0.0, 3.0), 3.0 * weight)
    grown = applied(("diff", (torch.ones(4, 2, dtype=torch.float64), {"pad_weight": True})), 1.0)
    torch.testing.assert_close(grown, torch.cat([weight, torch.zeros(1, 2, dtype=torch.float64)]) + 1)
    original = {"w": [(weight, None)]}
    full = {"original_weights": original, "intermediate_dtype": torch.float64}
    torch.testing.assert_close(applied(("model_as_lora", (other,)), **full), weight + 0.5 * (other - weight))
    # The other model of a merge, with a patch of its own.
    value = [(other, lambda w, inplace: w), (2.0, (torch.ones(3, 2),), 1.0, None, None)]
    merged = applied(value, 0.3, 0.7, intermediate_dtype=torch.float64)
    torch.testing.assert_close(merged, 0.7 * weight + 0.3 * (other + 2))
    up, down = rand(3, 1, seed=5), rand(1, 2, seed=6)
    torch.testing.assert_close(
        applied(("lora", (up, down, None, None, None))), weight + 0.5 * (up @ down).float()
    )


@pytest.mark.parametrize(
    "value",
    [
        (torch.ones(3, 3),),
        ("bogus", (torch.ones(2, 2),)),
        WeightAdapter("lora", (torch.ones(5, 1), torch.ones(1, 2), None, None, None, None)),
        WeightAdapter("lora", (torch.ones(3, 1), torch.ones(7, 2), None, None, None, None)),
        WeightAdapter("lokr", (torch.ones(2, 2), torch.ones(9, 9), None, *[None] * 6)),
        WeightAdapter("glora", (*[torch.ones(3, 3)] * 3, torch.ones(4, 4), None, None)),
        WeightAdapter("oft", (torch.ones(5, 2, 2), None, None, None)),
    ],
)
def test_what_does_not_fit_is_left_out_and_logged(value: Any, caplog: pytest.LogCaptureFixture) -> None:
    weight = rand(3, 2, seed=1)
    with caplog.at_level(logging.WARNING):
        out = calculate_weight([(1.0, value, 1.0, None, None)], weight.clone(), "some.weight")
    assert torch.equal(out, weight)
    assert "some.weight" in caplog.text and "left out" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_stochastic_rounding(dtype: torch.dtype) -> None:
    """To one of the two neighbours, right on average, the same for the same seed; what fits is left as it is."""
    value = torch.full((20000,), 1.03125)
    out = stochastic_rounding(value, dtype, seed=1).float()
    step = 0.125 if dtype == torch.float8_e4m3fn else 0.25
    assert set(out.tolist()) == {1.0, 1.0 + step}
    assert abs(out.mean().item() - 1.03125) < 0.003
    assert torch.equal(out, stochastic_rounding(value, dtype, seed=1).float())
    assert not torch.equal(out, stochastic_rounding(value, dtype, seed=2).float())
    exact = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    exact = exact[exact.isfinite()]
    torch.testing.assert_close(stochastic_rounding(exact, dtype, seed=3).float(), exact, rtol=0, atol=0)


def test_small_changes_of_fp8_weights_are_not_lost() -> None:
    weight = torch.ones(100, 100).to(torch.float8_e4m3fn)
    patch = (1.0, (torch.full((100, 100), 0.02),), 1.0, None, None)
    out = patched_weight(weight, [patch], "w", torch.float8_e4m3fn)
    assert abs(out.float().mean().item() - 1.02) < 0.004
    assert weight.float().eq(1).all()
