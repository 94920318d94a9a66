"""Weights on the CPU in oneDNN's blocked layout; as 16 bits if that is what they are and memory is to be saved.

oneDNN computes in fp32 from weights in a layout of its own, which it reorders them into at each call where they are not
packed so before. A weight that the file has in fp16 or bf16 can stay 16 bits wide when it is packed, which takes half
the memory of fp32. Right before its kernel runs it is widened into a *bench*, one buffer for all weights of one layout;
the numbers are those of fp32 weights bit for bit. Widening costs some hundredths of a pass, the more the smaller the
picture is.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import cache
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from comfyk_core_nodes.models.mapped import scratch

Pack = Callable[[Tensor], Tensor]
"""A dense fp32 weight to a copy in oneDNN's layout, an opaque tensor that only its kernels read."""
Kernel = Callable[[Tensor, "Tensor | None"], Tensor]
"""What computes with such a weight and its bias."""


class Bench:
    """The fp32 form that weights of one layout are widened into in turn."""

    def __init__(self, packed: Tensor) -> None:
        self.packed = packed
        self.values = _values(packed)
        self.lock = threading.Lock()

    def __deepcopy__(self, memo: Any) -> Bench:
        return self


_benches: WeakValueDictionary[bytes, Bench] = WeakValueDictionary()
"""By layout, as oneDNN writes it down."""
_benches_lock = threading.Lock()


class PackedWeight:
    """A layer's weight and bias for the kernels of oneDNN. `nbytes` is what they take, the bench left out."""

    def __init__(self, weight: Tensor, bias: Tensor | None, nbytes: int, bench: Bench | None = None) -> None:
        self.weight = weight
        """Opaque; with a bench, its values `[values]` in the order of the layout."""
        self.bias = bias
        self.nbytes = nbytes + (0 if bias is None else bias.nbytes)
        self.bench = bench

    def apply(self, kernel: Kernel) -> Tensor:
        """What the kernel gives."""
        if self.bench is None:
            return kernel(self.weight, self.bias)
        with self.bench.lock:
            self.bench.values.copy_(self.weight)
            return kernel(self.bench.packed, self.bias)


def packed_fp32(weight: Tensor, bias: Tensor | None, pack: Pack) -> PackedWeight:
    """A dense fp32 weight as fp32."""
    return PackedWeight(pack(weight), bias, weight.nbytes)


def packed_16_bits(weight: Tensor, bias: Tensor | None, pack: Pack) -> PackedWeight:
    """A dense fp16 or bf16 weight as it is. `bias` is fp32 already."""
    packed = pack(scratch(weight.shape, torch.float32).copy_(weight))
    # Before others can use the memory as a bench.
    values = _values(packed).to(weight.dtype)
    return PackedWeight(values, bias, weight.nbytes, _bench_for(packed))


def _bench_for(packed: Tensor) -> Bench:
    """The bench for weights packed as this one, which becomes it where there is none."""
    layout = torch.ops.mkldnn._get_mkldnn_serialized_md(packed).numpy().tobytes()
    with _benches_lock:
        bench = _benches.get(layout)
        if bench is None:
            bench = _benches[layout] = Bench(packed)
        return bench


def _values(packed: Tensor) -> Tensor:
    """The memory of an opaque fp32 tensor, `[values]` in the order of its layout. It is good for as long as that is."""
    count = torch.ops.mkldnn._nbytes(packed) // 4
    memory = (ctypes.c_float * count).from_address(torch.ops.mkldnn.data_ptr(packed))
    return torch.frombuffer(memory, dtype=torch.float32)


@cache
def can_pack() -> bool:
    """Whether fp32 weights can be packed at all."""
    return torch.backends.mkldnn.is_available()


@cache
def can_pack_16_bits() -> bool:
    """Whether the values of packed weights can be reached, and are widened by instructions made for it."""
    if not (can_pack() and torch.backends.cpu.get_cpu_capability().startswith("AVX")):
        return False
    needed = ("data_ptr", "_nbytes", "_get_mkldnn_serialized_md")
    return all(hasattr(torch.ops.mkldnn, name) for name in needed)
