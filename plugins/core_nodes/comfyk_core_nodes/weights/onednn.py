"""oneDNN's fp32 kernels for the CPU, which take weights in layouts of their own.

Such a weight is an opaque tensor: its values are in memory, in an order that only oneDNN knows. A kernel that gets
a weight in another order reorders it in each call, which takes longer than the convolution itself where pictures are
small (8x8: 3 times, 4x4: 5 times).
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor


class Kernel(Protocol):
    """What computes with a weight that was reordered for it. Equal ones want equal layouts."""

    def viewed(self, weight: Tensor) -> Tensor:
        """A layer's weight `[out, in, ...]` in the dimensions that the kernel has it in."""
        ...

    def reordered(self, weight: Tensor) -> Tensor:
        """Such a weight, dense and fp32, as an opaque copy."""
        ...

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What comes out for `x`, with such a copy."""
        ...


@dataclass(frozen=True)
class LinearKernel:
    """`[..., in] -> [..., out]`, with a weight `[out, in]`."""

    def viewed(self, weight: Tensor) -> Tensor:
        return weight.flatten(1)

    def reordered(self, weight: Tensor) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(weight, None)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@dataclass(frozen=True)
class ConvolutionKernel:
    """`[B, in, H, W] -> [B, out, H', W']`, with a weight `[out, in / groups, h, w]`."""

    padding: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def viewed(self, weight: Tensor) -> Tensor:
        return weight

    def reordered(self, weight: Tensor) -> Tensor:
        return torch.ops.mkldnn._reorder_convolution_weight(weight, *self._geometry)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *self._geometry, "none", [], "")

    @property
    def _geometry(self) -> tuple[list[int], list[int], list[int], int]:
        return list(self.padding), list(self.stride), list(self.dilation), self.groups


@cache
def available() -> bool:
    """Whether there are these kernels."""
    return torch.backends.mkldnn.is_available()


# --- the memory of opaque tensors --------------------------------------------------------------------------------


def values_of(opaque: Tensor) -> Tensor:
    """The memory of an opaque fp32 tensor, `[values]` in the order of its layout. It is good for as long as that is."""
    count = torch.ops.mkldnn._nbytes(opaque) // 4
    memory = (ctypes.c_float * count).from_address(torch.ops.mkldnn.data_ptr(opaque))
    return torch.frombuffer(memory, dtype=torch.float32)


def layout_of(opaque: Tensor) -> bytes:
    """The layout of an opaque tensor, as oneDNN writes it down."""
    return torch.ops.mkldnn._get_mkldnn_serialized_md(opaque).numpy().tobytes()


def opaque_over(values: Tensor, shape: Sequence[int], layout: bytes) -> Tensor:
    """An opaque tensor of this shape and layout whose memory is that of `values`. It is good for as long as they are.

    This is how torch's ahead-of-time compiler brings such weights back, by a function of its C interface.
    Raises RuntimeError if torch refuses.
    """
    library = _library()
    sizes = (ctypes.c_int64 * len(shape))(*shape)
    strides = (ctypes.c_int64 * len(shape))(*(prod(shape[dim + 1 :]) for dim in range(len(shape))))
    handle = ctypes.c_void_p()
    failed = library.create(
        *(values.data_ptr(), len(shape), sizes, strides, 0, library.float32, library.cpu, 0),
        *(ctypes.byref(handle), library.mkldnn, layout, len(layout)),
    )
    if failed:
        raise RuntimeError(
            f"torch makes no oneDNN tensor of the shape {list(shape)} over memory that is given"
        )
    interface: Any = torch._C._aoti  # pyright: ignore[reportAttributeAccessIssue]
    return interface.alloc_tensor_by_stealing_from_void_ptr(_capsule()(handle, None, None))


@cache
def can_share_memory() -> bool:
    """Whether `values_of` and `opaque_over` do what they say, with this torch, here."""
    if not available():
        return False
    weight = torch.arange(64 * 32, dtype=torch.float32).view(64, 32)
    try:
        opaque = LinearKernel().reordered(weight)
        values = values_of(opaque).clone()
        return torch.equal(opaque_over(values, weight.shape, layout_of(opaque)).to_dense(), weight)
    except (AttributeError, OSError, RuntimeError):
        return False


@dataclass(frozen=True)
class _Library:
    create: Callable[..., int]
    float32: int
    cpu: int
    mkldnn: int


@cache
def _library() -> _Library:
    name = {"win32": "torch_cpu.dll", "darwin": "libtorch_cpu.dylib"}.get(sys.platform, "libtorch_cpu.so")
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name))
    create = library.aoti_torch_create_tensor_from_blob_v2
    numbers = ctypes.POINTER(ctypes.c_int64)
    create.argtypes = [
        *(ctypes.c_void_p, ctypes.c_int64, numbers, numbers, ctypes.c_int64),
        *(ctypes.c_int32, ctypes.c_int32, ctypes.c_int32, ctypes.POINTER(ctypes.c_void_p)),
        *(ctypes.c_int32, ctypes.c_char_p, ctypes.c_int64),
    ]
    create.restype = ctypes.c_int32
    return _Library(
        create,
        library.aoti_torch_dtype_float32(),
        library.aoti_torch_device_type_cpu(),
        library.aoti_torch_layout__mkldnn(),
    )


@cache
def _capsule() -> Any:
    new = ctypes.pythonapi.PyCapsule_New
    new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    new.restype = ctypes.py_object
    return new
