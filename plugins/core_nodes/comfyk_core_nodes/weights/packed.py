"""Weights on the CPU in the layouts of oneDNN's kernels, as fp32 or, if that is what they are, as 16 bits.

oneDNN wants most weights in *blocks*: of a weight `[out, in, places]`, where places are those of a convolution's
kernel, `[out / block, places, in, block]`. Such a weight is put in order here, at the width that it is to be kept in.
One of 16 bits takes half the memory of fp32, and half the time to get it. Right before its kernel runs, it is widened
into memory that all weights take turns at; the numbers are those of fp32 weights bit for bit. Widening costs some
hundredths of a pass, the more the smaller the picture is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from math import prod
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from comfyk_core_nodes.weights import onednn
from comfyk_core_nodes.weights.mapped import scratch
from comfyk_core_nodes.weights.onednn import Kernel, layout_of, opaque_over, values_of

_BLOCKS = (64, 48, 32, 24, 16, 8)
"""The blocks that there may be: some vectors of 8 or 16 values."""
_LARGE = 1 << 20
"""Values of a weight that is too large to be reordered just to see where they go."""
_NARROW = 16
"""What `in` is padded to, if it is."""
_MARKS = 1000


@dataclass(frozen=True)
class Blocks:
    """The layout that a kernel wants a weight of `shape` in. What does not fill a block is padded with zeros."""

    shape: tuple[int, ...]
    block: int
    inner: int
    """`in`, padded."""
    layout: bytes
    """The same as oneDNN writes it down."""

    def order(self, weight: Tensor, make: Callable[[tuple[int, ...]], Tensor]) -> Tensor:
        """The values of a dense weight in this order, in what `make` gives for their shape.

        That is `[out / block, places, in, block]`.
        """
        outer, inner, places = _sizes(self.shape)
        full, rest = divmod(outer, self.block)
        values = make((full + (rest > 0), places, self.inner, self.block))
        if rest or inner < self.inner:
            values.zero_()
        weight = weight.reshape(outer, inner, places)
        blocks = weight[: full * self.block].view(full, self.block, inner, places)
        values[:full, :, :inner].copy_(blocks.permute(0, 3, 2, 1))
        if rest:
            values[full, :, :inner, :rest].copy_(weight[full * self.block :].permute(2, 1, 0))
        return values

    def opaque(self, values: Tensor) -> Tensor:
        """fp32 values as an opaque weight, which is good for as long as they are."""
        return opaque_over(values, self.shape, self.layout)


class PackedWeight(Protocol):
    """A layer's weight and bias for its kernel; calling it computes."""

    nbytes: int
    """What it takes besides the weight as it is stored."""

    def __call__(self, x: Tensor) -> Tensor: ...


class WideWeight:
    """One in fp32, packed."""

    def __init__(self, kernel: Kernel, weight: Tensor, bias: Tensor | None, blocks: Blocks | None) -> None:
        weight = kernel.viewed(weight)
        if blocks is None:
            dense = weight if weight.dtype == torch.float32 else _scratch(weight.shape).copy_(weight)
            self._weight = kernel.reordered(dense.contiguous())
            self.nbytes = 4 * weight.numel() + _nbytes(bias)
        else:
            self._values = blocks.order(weight, torch.empty)
            self._weight = blocks.opaque(self._values)
            self.nbytes = self._values.nbytes + _nbytes(bias)
        self._kernel = kernel
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        return self._kernel(x, self._weight, self._bias)

    def __deepcopy__(self, memo: Any) -> WideWeight:
        return self


class NarrowWeight:
    """One in 16 bits, packed; it is widened in each call."""

    def __init__(self, kernel: Kernel, weight: Tensor, bias: Tensor | None, blocks: Blocks) -> None:
        self._values = blocks.order(kernel.viewed(weight), partial(torch.empty, dtype=weight.dtype))
        self._blocks = blocks
        self._kernel = kernel
        self._bias = bias
        self.nbytes = self._values.nbytes + _nbytes(bias)

    def __call__(self, x: Tensor) -> Tensor:
        wide = _scratch(self._values.shape).copy_(self._values)
        return self._kernel(x, self._blocks.opaque(wide), self._bias)


class StoredWeight:
    """One as it is stored, which is packed in each call."""

    def __init__(self, kernel: Kernel, weight: Tensor, bias: Tensor | None, blocks: Blocks) -> None:
        self._weight = kernel.viewed(weight)
        self._blocks = blocks
        self._kernel = kernel
        self._bias = bias
        self.nbytes = _nbytes(bias)

    def __call__(self, x: Tensor) -> Tensor:
        wide = self._blocks.order(self._weight, _scratch)
        return self._kernel(x, self._blocks.opaque(wide), self._bias)


def _scratch(shape: Sequence[int]) -> Tensor:
    return scratch(shape, torch.float32)


def _nbytes(bias: Tensor | None) -> int:
    return 0 if bias is None else bias.nbytes


@cache
def can_keep_16_bits() -> bool:
    """Whether weights of 16 bits are widened by instructions made for it, and kernels can be given the result."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX") and onednn.can_share_memory()


_known: dict[tuple[Kernel, tuple[int, ...]], Blocks | None] = {}
_finding = threading.Lock()


def blocks_for(kernel: Kernel, weight: Tensor) -> Blocks | None:
    """What a kernel wants a layer's weight in; None if that is no such order, or cannot be told."""
    shape = tuple(kernel.viewed(weight).shape)
    with _finding:
        if (kernel, shape) not in _known:
            _known[kernel, shape] = _find(kernel, shape) if onednn.can_share_memory() else None
        return _known[kernel, shape]


def _find(kernel: Kernel, shape: tuple[int, ...]) -> Blocks | None:
    """Watch a weight of this shape being reordered; for a large one, two that are as it is but narrow.

    How oneDNN blocks a weight hangs on `out`, and every number that it writes down grows evenly with `in`.
    """
    if prod(shape) <= _LARGE:
        return _watch(kernel, shape)
    outer, inner, *places = shape
    one, two = (_watch(kernel, (outer, width, *places)) for width in (_NARROW, 2 * _NARROW))
    if one is None or two is None or one.block != two.block or inner % _NARROW or one.inner != _NARROW:
        return None
    first, second = (np.frombuffer(blocks.layout, np.int32) for blocks in (one, two))
    layout = first + (second - first) * (inner // _NARROW - 1)
    return Blocks(shape, one.block, inner, layout.astype(np.int32).tobytes())


def _watch(kernel: Kernel, shape: tuple[int, ...]) -> Blocks | None:
    """Have a weight reordered that has marks in some places, and see where they are then."""
    outer, inner, places = _sizes(shape)
    marked = torch.empty(shape)  # what else is in it does not matter
    where = torch.randint(prod(shape), (_MARKS,), generator=torch.Generator().manual_seed(0)).unique()
    marks = torch.arange(1, len(where) + 1, dtype=torch.float32)
    marked.view(-1)[where] = marks
    opaque = kernel.reordered(marked)
    values = values_of(opaque)
    o, i, place = where // (inner * places), where // places % inner, where % places
    for block in _BLOCKS:
        padded, left = divmod(len(values), -(-outer // block) * block * places)
        if left == 0 and padded >= inner:
            there = ((o // block * places + place) * padded + i) * block + o % block
            if torch.equal(values[there], marks):
                return Blocks(shape, block, padded, layout_of(opaque))
    return None


def _sizes(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """`out`, `in` and places of a weight."""
    outer, inner, *kernel = shape
    return outer, inner, prod(kernel)
