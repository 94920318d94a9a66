"""Weights of 16 bits that stay so on the CPU (`--lowvram`) compute what fp32 weights compute, bit for bit."""

from __future__ import annotations

import copy
import gc
import threading
from typing import Any

import pytest
import torch
from comfyk_core_nodes.models import packed
from comfyk_core_nodes.models.layers import Conv2d, Linear, StoredWeights, prepare_layers, stored_layers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

pytestmark = pytest.mark.skipif(not packed.can_pack_16_bits(), reason="this CPU keeps fp32 weights")

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def low_memory(use: Any) -> None:
    use(vram="low")


def filled(layer: StoredWeights, seed: int, dtype: torch.dtype = torch.float16) -> StoredWeights:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in layer.named_parameters():
        value = torch.randn(parameter.shape, generator=generator).to(dtype)
        setattr(layer, name, nn.Parameter(value, requires_grad=False))
    return layer


def in_fp32(layer: StoredWeights) -> StoredWeights:
    """The same numbers, stored as fp32."""
    same = copy.deepcopy(layer)
    same.release()
    for name, parameter in layer.named_parameters():
        setattr(same, name, nn.Parameter(parameter.float(), requires_grad=False))
    same.prepare(CPU, torch.float32)
    return same


def layers() -> st.SearchStrategy[tuple[StoredWeights, Tensor]]:
    sizes, seeds = st.integers(1, 70), st.integers(0, 99)
    dtypes = st.sampled_from([torch.float16, torch.bfloat16])

    def linear(inner: int, outer: int, bias: bool, seed: int, dtype: torch.dtype) -> Any:
        return filled(Linear(inner, outer, bias), seed, dtype), torch.randn(2, 5, inner)

    def conv(inner: int, outer: int, bias: bool, seed: int, dtype: torch.dtype, how: Any) -> Any:
        (kernel, stride, padding), last = how
        layer = Conv2d(inner, outer, kernel, stride=stride, padding=padding, bias=bias)
        x = torch.randn(2, inner, 6, 5)
        return filled(layer, seed, dtype), x.contiguous(memory_format=torch.channels_last) if last else x

    kinds = st.sampled_from([(3, 1, 1), (3, 2, 1), (1, 1, 0), (1, 2, 0), (1, 1, 1)])
    common = (sizes, sizes, st.booleans(), seeds, dtypes)
    return st.builds(linear, *common) | st.builds(conv, *common, st.tuples(kinds, st.booleans()))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=layers())
def test_it_is_fp32_bit_for_bit(case: tuple[StoredWeights, Tensor]) -> None:
    layer, x = case
    expected = in_fp32(layer)(x)
    before = layer.weight.clone()
    taken = layer.prepare(CPU, torch.float32)
    bias = 0 if layer.bias is None else 4 * layer.bias.numel()
    assert taken == 2 * layer.weight.numel() + bias
    assert torch.equal(layer(x), expected)
    assert torch.equal(layer.weight, before)


def test_layers_of_one_layout_take_turns_at_one_bench() -> None:
    gc.collect()
    known = len(packed._benches)
    model = nn.Sequential(*(filled(Linear(48, 48), seed) for seed in range(3)))
    x = torch.randn(4, 48)
    expected = nn.Sequential(*(in_fp32(layer) for _, layer in stored_layers(model)))(x)
    prepare_layers(model, CPU, torch.float32)
    assert len(packed._benches) == known + 1
    for _ in range(2):
        assert torch.equal(model(x), expected)
    del model
    gc.collect()
    assert len(packed._benches) == known


def test_threads_do_not_meet_at_a_bench() -> None:
    pair = [filled(Linear(64, 64), seed) for seed in (1, 2)]
    x = torch.randn(8, 64)
    expected = [in_fp32(layer)(x) for layer in pair]
    for layer in pair:
        layer.prepare(CPU, torch.float32)
    start, wrong = threading.Barrier(2), []

    def work(index: int) -> None:
        start.wait()
        wrong.extend(i for i in range(300) if not torch.equal(pair[index](x), expected[index]))

    threads = [threading.Thread(target=work, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_changed_and_scaled_weights_are_fp32() -> None:
    layer = filled(Linear(32, 16, bias=False), 0)
    assert layer.prepared_itemsize(CPU, torch.float32, changed=False) == 2
    assert layer.prepared_itemsize(CPU, torch.float32, changed=True) == 4
    assert layer.prepared_itemsize(CPU, torch.bfloat16, changed=False) == 2
    layer.weight_function = [lambda weight: weight + 1e-6]
    assert layer.prepare(CPU, torch.float32) == 4 * layer.weight.numel()
    x = torch.ones(1, 32)
    assert torch.allclose(layer(x), (layer.weight.float() + 1e-6).sum(1)[None], atol=1e-4)
    layer.release()
    layer.weight_function, layer.scale_weight = [], torch.tensor(2.0)
    assert layer.prepare(CPU, torch.float32) == 4 * layer.weight.numel()


@pytest.mark.parametrize("vram", ["auto", "high", "gpu-only"])
def test_memory_to_spare_is_used_for_fp32(use: Any, vram: str) -> None:
    use(vram=vram)
    assert filled(Linear(32, 16, bias=False), 0).prepare(CPU, torch.float32) == 4 * 32 * 16


def test_a_prepared_layer_can_be_copied() -> None:
    layer, x = filled(Linear(20, 20), 3), torch.randn(2, 20)
    layer.prepare(CPU, torch.float32)
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
