"""Layers compute the same whether prepared or not, and never change what they store."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfyk_core_nodes.weights.layers import (
    Conv2d,
    Embedding,
    GroupNorm,
    LayerNorm,
    Linear,
    StoredWeights,
    prepare_layers,
    release_layers,
    stored_layers,
)
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("seeded")

CASES = [
    (lambda: Linear(12, 8), (2, 5, 12)),
    (lambda: Linear(12, 8, bias=False), (5, 12)),
    (lambda: Conv2d(8, 6, 3, padding=1), (2, 8, 5, 7)),
    (lambda: Conv2d(8, 6, 3, stride=2, bias=False), (1, 8, 6, 6)),
    (lambda: Conv2d(8, 6, 1), (1, 8, 4, 4)),
    (lambda: GroupNorm(4, 8), (2, 8, 3, 3)),
    (lambda: LayerNorm(12), (2, 3, 12)),
]


def filled(layer: StoredWeights, dtype: torch.dtype) -> StoredWeights:
    for name, parameter in layer.named_parameters():
        setattr(layer, name, nn.Parameter(torch.randn(parameter.shape).to(dtype), requires_grad=False))
    return layer


def plain(layer: StoredWeights, x: Tensor) -> Tensor:
    """What torch's own layer gives with the weights in float32."""
    weight = layer.weight.float()
    bias = None if layer.bias is None else layer.bias.float()
    if isinstance(layer, nn.Linear):
        return nn.functional.linear(x, weight, bias)
    if isinstance(layer, nn.Conv2d):
        return nn.functional.conv2d(x, weight, bias, layer.stride, layer.padding)
    if isinstance(layer, nn.GroupNorm):
        return nn.functional.group_norm(x, layer.num_groups, weight, bias, layer.eps)
    return nn.functional.layer_norm(x, (12,), weight, bias)


@pytest.mark.parametrize("case", range(len(CASES)))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_a_layer_in_every_state(case: int, dtype: torch.dtype) -> None:
    build, shape = CASES[case]
    layer, x = filled(build(), dtype), torch.randn(shape)
    expected = plain(layer, x)
    before = layer.weight.clone()
    assert torch.allclose(layer(x), expected, atol=1e-5)
    with torch.inference_mode():
        assert torch.allclose(layer(x), expected, atol=1e-5)
        if not isinstance(layer, nn.GroupNorm):
            assert torch.allclose(layer(x[0]), expected[0], atol=1e-5)
        assert layer(x[:0]).shape == (0, *expected.shape[1:])
    itemsize = layer.prepared_itemsize(torch.device("cpu"), torch.float32, changed=False)
    assert layer.prepare("cpu", torch.float32) >= itemsize * layer.weight.numel()
    assert layer.prepared
    assert torch.allclose(layer(x), expected, atol=1e-5)
    if x.ndim == 4:
        channels_last = x.contiguous(memory_format=torch.channels_last)
        assert torch.allclose(layer(channels_last), expected, atol=1e-5)
    if not isinstance(layer, nn.GroupNorm):
        assert torch.allclose(layer(x[0]), expected[0], atol=1e-5)
    # A dtype that it was not prepared for.
    assert torch.allclose(layer(x.bfloat16()).float(), expected, atol=0.3)
    assert layer.release() > 0
    assert layer.release() == 0
    assert torch.equal(layer.weight.float(), before.float())
    assert layer.weight.dtype == dtype


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="there is no oneDNN")
@pytest.mark.parametrize("size", [4, 16, 32])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2)])
def test_a_prepared_convolution_reorders_no_weight(
    size: int, kernel: int, stride: int, capfd: pytest.CaptureFixture[str]
) -> None:
    layer = filled(Conv2d(320, 320, kernel, stride=stride, padding=kernel // 2), torch.float16)
    layer.prepare("cpu", torch.float32)
    x = torch.randn(2, 320, size, size).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        layer(x)
    calls = [line for line in capfd.readouterr().out.splitlines() if ",exec," in line]
    assert len(calls) == 1
    assert ",reorder," not in calls[0]


def test_weight_functions_are_applied_and_undone() -> None:
    layer, x = filled(Linear(12, 8), torch.float16), torch.randn(3, 12)
    before, expected = layer.weight.clone(), layer(x)
    layer.weight_function = [lambda weight: weight * 2]
    layer.bias_function = [lambda bias: bias * 2]
    assert torch.allclose(layer(x), expected * 2, atol=1e-5)
    layer.prepare("cpu", torch.float32)
    assert torch.allclose(layer(x), expected * 2, atol=1e-5)
    layer.weight_function, layer.bias_function = [], []
    layer.release()
    assert torch.equal(layer(x), expected)
    assert torch.equal(layer.weight, before)


def test_scaled_weights() -> None:
    layer, x = filled(Linear(12, 8, bias=False), torch.float8_e4m3fn), torch.randn(3, 12)
    expected = layer(x) * 3
    layer.scale_weight = torch.tensor(3.0)
    assert torch.allclose(layer(x), expected, atol=1e-4)
    layer.prepare("cpu", torch.float32)
    assert torch.allclose(layer(x), expected, atol=1e-4)


@pytest.mark.parametrize("wanted", [False, True])
def test_convolutions_in_channels_last_order(use: Any, wanted: bool) -> None:
    """`--force-channels-last`, which changes the order in memory and no number."""
    use(channels_last=wanted)
    layer, x = filled(Conv2d(8, 6, 3, padding=1), torch.float16), torch.randn(2, 8, 5, 7)
    weight, _ = layer.cast_weights(torch.device("cpu"), torch.bfloat16)
    assert weight.is_contiguous(memory_format=torch.channels_last) == wanted
    assert torch.equal(weight, layer.weight.bfloat16())
    assert torch.allclose(layer(x), plain(layer, x), atol=1e-5)
    layer.prepare("cpu", torch.float32)
    assert torch.allclose(layer(x), plain(layer, x), atol=1e-5)


def test_an_embedding_casts_the_rows_it_needs() -> None:
    table = filled(Embedding(10, 4), torch.float16)
    rows = torch.tensor([[1, 3], [9, 0]])
    assert torch.equal(table(rows), table.weight.float()[rows])
    assert table(rows, out_dtype=torch.bfloat16).dtype == torch.bfloat16
    assert table.prepare("cpu", torch.float32) == 0
    table.weight_function = [lambda weight: weight + 1]
    assert torch.equal(table(rows), table.weight.float()[rows] + 1)


def test_moving_a_module_drops_its_compute_copies() -> None:
    module = nn.Sequential(filled(Linear(12, 8), torch.float32), nn.ReLU())
    assert [name for name, _ in stored_layers(module)] == ["0"]
    assert prepare_layers(module, "cpu", torch.float32) >= (12 * 8 + 8) * 4
    module.to(torch.float16)
    assert release_layers(module) == 0
    assert module[0].weight.dtype == torch.float16
