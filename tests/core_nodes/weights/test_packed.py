"""Packed weights, in whichever way they are kept on the CPU, compute what oneDNN's own packing does, bit for bit."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyk_core_nodes.weights import onednn
from comfyk_core_nodes.weights.layers import Conv2d, Linear, StoredWeights
from comfyk_core_nodes.weights.mapped import scratch_memory
from comfyk_core_nodes.weights.packed import blocks_for, can_keep_16_bits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

pytestmark = [
    pytest.mark.skipif(not onednn.available(), reason="there is no oneDNN"),
    pytest.mark.usefixtures("seeded"),
]
shares_memory = pytest.mark.skipif(
    not onednn.can_share_memory(), reason="this torch keeps the memory of oneDNN's tensors to itself"
)

CPU = torch.device("cpu")
KEPT = {"auto": "as stored, packed", "low": "as stored", "high": "in fp32, packed"}
"""What becomes of weights of 16 bits by `vram`."""


def filled(layer: StoredWeights, seed: int, dtype: torch.dtype = torch.float16) -> StoredWeights:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in layer.named_parameters():
        value = torch.randn(parameter.shape, generator=generator).to(dtype)
        setattr(layer, name, nn.Parameter(value, requires_grad=False))
    return layer


def expected(layer: StoredWeights, x: Tensor) -> Tensor:
    """By oneDNN's kernel, with the weight that it reordered itself."""
    kernel = layer._kernel
    assert kernel is not None
    weight = kernel.reordered(kernel.viewed(layer.weight.float()))
    bias = None if layer.bias is None else layer.bias.float()
    if x.ndim == 4 and kernel == onednn.LinearKernel():
        return kernel(x.movedim(1, -1), weight, bias).movedim(-1, 1)
    return kernel(x, weight, bias)


def layers() -> st.SearchStrategy[tuple[StoredWeights, Tensor]]:
    sizes, seeds = st.integers(1, 70), st.integers(0, 99)
    dtypes = st.sampled_from([torch.float16, torch.bfloat16, torch.float32])

    def linear(inner: int, outer: int, bias: bool, seed: int, dtype: torch.dtype) -> Any:
        return filled(Linear(inner, outer, bias), seed, dtype), torch.randn(2, 5, inner)

    def conv(inner: int, outer: int, bias: bool, seed: int, dtype: torch.dtype, how: Any) -> Any:
        (kernel, stride, padding), last = how
        layer = Conv2d(inner, outer, kernel, stride=stride, padding=padding, bias=bias)
        x = torch.randn(2, inner, 6, 5)
        return filled(layer, seed, dtype), x.contiguous(memory_format=torch.channels_last) if last else x

    kinds = st.sampled_from([(3, 1, 1), (3, 2, 1), (5, 1, 2), (1, 1, 0), (1, 2, 0), (1, 1, 1)])
    common = (sizes, sizes, st.booleans(), seeds, dtypes)
    return st.builds(linear, *common) | st.builds(conv, *common, st.tuples(kinds, st.booleans()))


@pytest.mark.parametrize("vram", KEPT)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(case=layers())
def test_it_is_oneDNNs_own_packing_bit_for_bit(
    use: Any, vram: str, case: tuple[StoredWeights, Tensor]
) -> None:
    use(vram=vram)
    layer, x = case
    before = layer.weight.clone()
    with torch.inference_mode():
        wanted = expected(layer, x)
        taken = layer.prepare(CPU, torch.float32)
        assert torch.equal(layer(x), wanted)
        assert torch.equal(copy.deepcopy(layer)(x), wanted)
        itemsize = layer.prepared_itemsize(CPU, torch.float32, changed=False)
        assert taken >= itemsize * layer.weight.numel()
        assert layer.release() == taken
        assert torch.allclose(layer(x), wanted, atol=1e-4)  # as it is stored
    assert torch.equal(layer.weight, before)


LARGE = [
    (Linear(1280, 1280), (2, 77, 1280)),
    (Linear(1280, 5121), (2, 16, 1280)),
    (Conv2d(1280, 320, 3, padding=1), (1, 1280, 5, 4)),
    (Conv2d(2560, 64, 3, padding=1), (1, 2560, 4, 4)),
    (Conv2d(640, 192, 3, stride=2, padding=1), (1, 640, 8, 8)),
    (Conv2d(1920, 640, 1), (1, 1920, 4, 4)),
    (Conv2d(1296, 100, 3), (1, 1296, 5, 5)),
]


@shares_memory
@pytest.mark.parametrize("vram", KEPT)
@pytest.mark.parametrize("case", range(len(LARGE)))
def test_the_order_of_large_weights_follows_from_small_ones(use: Any, vram: str, case: int) -> None:
    use(vram=vram)
    layer, shape = LARGE[case]
    filled(layer, case)
    kernel = layer._kernel
    assert kernel is not None
    assert layer.weight.numel() > 1 << 20
    x = torch.randn(shape)
    with torch.inference_mode():
        wanted = expected(layer, x)
        layer.prepare(CPU, torch.float32)
        assert torch.equal(layer(x), wanted)
        layer.release()
    blocks = blocks_for(kernel, layer.weight)
    if blocks is None:
        assert not can_keep_16_bits() or "ONEDNN_MAX_CPU_ISA" in os.environ, "the order should be known here"
        return
    dense = kernel.viewed(layer.weight.float())
    values = blocks.order(dense, torch.empty)
    assert torch.equal(blocks.opaque(values).to_dense(), dense)


@pytest.mark.parametrize("isa", ["SSE41", "AVX2", "AVX512_CORE"])
def test_other_processors_want_other_orders(isa: str) -> None:
    """oneDNN can be held to the instructions of older ones. Theirs may be orders that are not known here."""
    code = (
        "import pytest, sys; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '-k',"
        f" 'bit_for_bit or large_weights', {str(Path(__file__))!r}]))"
    )
    env = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(not can_keep_16_bits(), reason="this CPU keeps fp32 weights")
def test_what_a_weight_takes(use: Any) -> None:
    for vram, itemsize in (("auto", 2), ("low", 0), ("none", 0), ("high", 4), ("gpu-only", 4)):
        use(vram=vram)
        layer = filled(Linear(64, 128, bias=False), 0)
        assert layer.prepared_itemsize(CPU, torch.float32, changed=False) == itemsize, vram
        assert layer.prepared_itemsize(CPU, torch.float32, changed=True) == 4
        assert layer.prepared_itemsize(CPU, torch.bfloat16, changed=False) == 2
        assert layer.prepare(CPU, torch.float32) == itemsize * 64 * 128
        assert layer.prepared == (itemsize > 0)


@pytest.mark.parametrize("vram", KEPT)
def test_changed_and_scaled_weights_are_fp32(use: Any, vram: str) -> None:
    use(vram=vram)
    layer, x = filled(Linear(64, 64, bias=False), 0), torch.ones(1, 64)
    layer.weight_function = [lambda weight: weight + 1e-6]
    assert layer.prepare(CPU, torch.float32) == 4 * layer.weight.numel()
    assert torch.allclose(layer(x), (layer.weight.float() + 1e-6).sum(1)[None], atol=1e-4)
    layer.release()
    layer.weight_function, layer.scale_weight = [], torch.tensor(2.0)
    assert layer.prepare(CPU, torch.float32) == 4 * layer.weight.numel()
    assert torch.allclose(layer(x), 2 * layer.weight.float().sum(1)[None], atol=1e-4)


@pytest.mark.parametrize("vram", KEPT)
@pytest.mark.parametrize("shape", [(2, 5, 64), (1, 64, 4, 4)])
def test_gradients_of_the_input(use: Any, vram: str, shape: tuple[int, ...]) -> None:
    use(vram=vram)
    layer = filled(Linear(64, 32) if len(shape) == 3 else Conv2d(64, 32, 3, padding=1), 1)
    layer.prepare(CPU, torch.float32)
    weight, bias = layer.weight.float(), layer.bias.float()
    plain = nn.functional.linear if len(shape) == 3 else partial(nn.functional.conv2d, padding=1)
    with torch.enable_grad():
        x = torch.randn(shape, requires_grad=True)
        (layer(x).square().sum() + layer(2 * x).sum()).backward()
        again = x.detach().clone().requires_grad_()
        (plain(again, weight, bias).square().sum() + plain(2 * again, weight, bias).sum()).backward()
    assert x.grad is not None
    assert again.grad is not None
    assert torch.allclose(x.grad, again.grad, atol=1e-3)


@pytest.mark.parametrize("vram", KEPT)
def test_threads_have_memory_of_their_own(use: Any, vram: str) -> None:
    use(vram=vram)
    pair = [filled(Linear(64, 64), seed) for seed in (1, 2)]
    x = torch.randn(8, 64)
    with torch.inference_mode():
        wanted = [expected(layer, x) for layer in pair]
    for layer in pair:
        layer.prepare(CPU, torch.float32)
    start, wrong = threading.Barrier(2), []

    def work(index: int) -> None:
        start.wait()
        with scratch_memory(), torch.inference_mode():
            wrong.extend(i for i in range(300) if not torch.equal(pair[index](x), wanted[index]))

    threads = [threading.Thread(target=work, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_scratch_memory_is_used_in_every_mode(use: Any) -> None:
    """It may be got while torch keeps no account of gradients, and written to when it does again."""
    use(vram="low")
    layer, x = filled(Linear(64, 64), 1), torch.randn(8, 64)
    with scratch_memory():
        with torch.inference_mode():
            wanted = layer(x).clone()
            with torch.inference_mode(False), torch.no_grad():
                assert torch.equal(layer(x), wanted)
        with torch.no_grad():
            assert torch.equal(layer(x), wanted)
