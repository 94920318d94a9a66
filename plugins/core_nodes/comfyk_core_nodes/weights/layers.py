"""The layers that every network here is built of: weights as the file has them, computed in the dtype of the input.

A layer's `weight` and `bias` stay what was read: usually a view of the mapped file, in the file's dtype. There are
two ways to compute with them:

- `prepare(device, dtype)` makes a compute copy once: cast, moved, patched by `weight_function`, and on the CPU packed
  as oneDNN's kernels want it (`weights.packed`).
- without it the weight is cast and patched at each use, and nothing is kept: for layers that do not fit the device, and
  for those of networks that run only once or twice in a job.

`release()` drops the compute copy. The stored weights are never changed by either, so whatever `weight_function`
did is undone bit for bit by clearing it and calling `release()`. `weight_function`, `bias_function` and
`comfy_cast_weights` are the field's names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comfyk_core_nodes.devices.settings import device_settings
from comfyk_core_nodes.weights import onednn
from comfyk_core_nodes.weights.mapped import scratch, scratch_memory
from comfyk_core_nodes.weights.onednn import ConvolutionKernel, Kernel, LinearKernel
from comfyk_core_nodes.weights.packed import (
    NarrowWeight,
    PackedWeight,
    StoredWeight,
    WideWeight,
    blocks_for,
    can_keep_16_bits,
)

WeightFunction = Callable[[Tensor], Tensor]


@dataclass(slots=True)
class ComputeCopy:
    """A layer's weights as its kernel takes them: `packed` on the CPU, else `weight` and `bias`."""

    weight: Tensor
    bias: Tensor | None
    device: torch.device
    dtype: torch.dtype
    packed: PackedWeight | None = None

    def nbytes(self) -> int:
        if self.packed is not None:
            return self.packed.nbytes
        return self.weight.nbytes + (0 if self.bias is None else self.bias.nbytes)


class StoredWeights(nn.Module):
    """What the layers below share. `scale_weight` multiplies weights that are stored scaled, as fp8 files do."""

    weight: Tensor
    bias: Tensor | None
    comfy_cast_weights = True
    scale_weight: Tensor | None
    weight_function: list[WeightFunction]
    bias_function: list[WeightFunction]
    _copy: ComputeCopy | None

    def _start_empty(self) -> None:
        self.scale_weight = None
        self.weight_function = []
        self.bias_function = []
        self._copy = None
        for parameter in self.parameters(recurse=False):
            parameter.requires_grad_(False)

    def reset_parameters(self) -> None:
        """Weights come from a file: nothing is drawn."""

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        self.release()
        return super()._apply(fn, recurse)

    @property
    def prepared(self) -> bool:
        return self._copy is not None

    def prepare(self, device: torch.device | str, dtype: torch.dtype) -> int:
        """Make the compute copy for `device` and `dtype`, if one is to be made. Returns the bytes that it takes."""
        device = torch.device(device)
        copy = self._copy
        if copy is None or copy.device != device or copy.dtype != dtype:
            kernel = self._kernel_for(device, dtype)
            if kernel is None:
                copy = ComputeCopy(*self.cast_weights(device, dtype), device, dtype)
            else:
                packed = self._packed(kernel)
                copy = None if packed is None else ComputeCopy(self.weight, self.bias, device, dtype, packed)
            self._copy = copy
        return 0 if copy is None else copy.nbytes()

    def prepared_itemsize(self, device: torch.device, dtype: torch.dtype, changed: bool) -> int:
        """The bytes that a compute copy takes for each value of the weight, which is patched if `changed`."""
        kernel = self._kernel_for(device, dtype)
        if kernel is None:
            return dtype.itemsize
        packed = self._packed_dtype(kernel, changed)
        return 0 if packed is None else packed.itemsize

    def release(self) -> int:
        """Drop the compute copy. Returns the bytes that it took."""
        freed = 0 if self._copy is None else self._copy.nbytes()
        self._copy = None
        return freed

    def cast_weights(
        self, device: torch.device, dtype: torch.dtype, out: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The stored weights on `device`, in `dtype`, patched; the weight in `out` where that is given.

        They may be the stored tensors themselves.
        """
        weight = self.weight.to(device=device, dtype=dtype) if out is None else out.copy_(self.weight)
        if self.scale_weight is not None:
            weight = weight * self.scale_weight.to(device=device, dtype=dtype)
        for function in self.weight_function:
            weight = function(weight)
        return weight, self._cast_bias(device, dtype)

    def _cast_bias(self, device: torch.device, dtype: torch.dtype) -> Tensor | None:
        if self.bias is None:
            return None
        bias = self.bias.to(device=device, dtype=dtype)
        for function in self.bias_function:
            bias = function(bias)
        return bias

    def _weights_for(self, x: Tensor) -> ComputeCopy:
        """The copy that was prepared, if it is for such an input; else one for this use."""
        copy, gradients = self._copy, torch.is_grad_enabled()
        if copy is not None and copy.device == x.device and copy.dtype == x.dtype:
            # Kernels for packed weights have no gradients.
            no_gradients = copy.packed is not None and gradients and x.requires_grad
            if not no_gradients:
                return copy
        if gradients or x.device != CPU:
            # What gradients are computed from must last.
            return ComputeCopy(*self.cast_weights(x.device, x.dtype), x.device, x.dtype)
        kernel = self._kernel_for(x.device, x.dtype)
        blocks = None if kernel is None or self._changed else blocks_for(kernel, self.weight)
        if kernel is None or blocks is None:
            return ComputeCopy(*self.cast_weights(CPU, x.dtype, self._scratch(x.dtype)), CPU, x.dtype)
        stored = StoredWeight(kernel, self.weight, self._cast_bias(CPU, x.dtype), blocks)
        return ComputeCopy(self.weight, self.bias, CPU, x.dtype, stored)

    def _scratch(self, dtype: torch.dtype) -> Tensor | None:
        """Memory for the weight in `dtype` on the CPU, for a moment; None where it is there in that already."""
        return None if self.weight.dtype == dtype else scratch(self.weight.shape, dtype)

    # --- on the CPU ------------------------------------------------------------------------------------------

    @property
    def _kernel(self) -> Kernel | None:
        """What computes with the weight on the CPU in fp32, if it is better packed for it."""
        return None

    def _kernel_for(self, device: torch.device, dtype: torch.dtype) -> Kernel | None:
        return self._kernel if device == CPU and dtype == torch.float32 and onednn.available() else None

    @property
    def _changed(self) -> bool:
        """Whether what is computed with is not the weight as it is stored."""
        return bool(self.weight_function) or self.scale_weight is not None

    def _packed_dtype(self, kernel: Kernel, changed: bool) -> torch.dtype | None:
        """What the weight is packed as; None where it is used as it is stored, and packed for each use."""
        vram, stored = device_settings().vram, self.weight.dtype
        fixed = changed or self.scale_weight is not None or blocks_for(kernel, self.weight) is None
        if fixed or vram in ("high", "gpu-only"):
            return torch.float32
        if vram in ("low", "none"):
            return None
        return stored if stored in (torch.float16, torch.bfloat16) and can_keep_16_bits() else torch.float32

    def _packed(self, kernel: Kernel) -> PackedWeight | None:
        dtype, blocks = self._packed_dtype(kernel, self._changed), blocks_for(kernel, self.weight)
        if dtype is None:
            return None
        if self._changed:
            weight, bias = self.cast_weights(CPU, torch.float32, self._scratch(torch.float32))
        else:
            weight, bias = self.weight, self._cast_bias(CPU, torch.float32)
        if dtype == torch.float32 or blocks is None:
            return WideWeight(kernel, weight, bias, blocks)
        return NarrowWeight(kernel, weight, bias, blocks)


CPU = torch.device("cpu")


class Linear(StoredWeights, nn.Linear):
    """`[..., in] -> [..., out]`."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, device: Any = None) -> None:
        super().__init__(in_features, out_features, bias=bias, device=device)
        self._start_empty()

    @property
    def _kernel(self) -> Kernel:
        return LinearKernel()

    def forward(self, input: Tensor) -> Tensor:
        copy = self._weights_for(input)
        if copy.packed is not None:
            return copy.packed(input)
        return F.linear(input, copy.weight, copy.bias)


class Conv2d(StoredWeights, nn.Conv2d):
    """`[B, in, H, W] -> [B, out, H', W']`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        device: Any = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=bias, device=device)
        self._start_empty()

    def cast_weights(
        self, device: torch.device, dtype: torch.dtype, out: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        weight, bias = super().cast_weights(device, dtype, out)
        if device_settings().channels_last:
            weight = weight.contiguous(memory_format=torch.channels_last)
        return weight, bias

    @property
    def _is_linear(self) -> bool:
        """Whether each pixel comes from one pixel alone. For such, oneDNN's convolution does not keep to the layout
        that it reorders for, and would reorder the weight at each call."""
        plain = (self.kernel_size, self.stride, self.dilation) == ((1, 1),) * 3
        return plain and self.groups == 1 and not any(self._padding)

    @property
    def _padding(self) -> tuple[int, ...]:
        return tuple(int(side) for side in self.padding)

    @property
    def _kernel(self) -> Kernel:
        if self._is_linear:
            return LinearKernel()
        return ConvolutionKernel(self._padding, self.stride, self.dilation, self.groups)

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim == 3:  # one picture, which torch takes as well
            return self.forward(input[None])[0]
        copy = self._weights_for(input)
        if copy.packed is None:
            return self._conv_forward(input, copy.weight, copy.bias)
        if self._is_linear:
            return copy.packed(input.movedim(1, -1)).movedim(-1, 1)
        return copy.packed(input)


class GroupNorm(StoredWeights, nn.GroupNorm):
    """Normalises groups of channels of `[B, C, H, W]` (Wu and He 2018, arXiv:1803.08494)."""

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, device: Any = None) -> None:
        super().__init__(num_groups, num_channels, eps=eps, device=device)
        self._start_empty()

    def forward(self, input: Tensor) -> Tensor:
        copy = self._weights_for(input)
        return F.group_norm(input, self.num_groups, copy.weight, copy.bias, self.eps)


class LayerNorm(StoredWeights, nn.LayerNorm):
    """Normalises the last dimension (Ba et al. 2016, arXiv:1607.06450)."""

    def __init__(self, normalized_shape: int, eps: float = 1e-5, device: Any = None) -> None:
        super().__init__(normalized_shape, eps=eps, device=device)
        self._start_empty()

    def forward(self, input: Tensor) -> Tensor:
        copy = self._weights_for(input)
        return F.layer_norm(input, self.normalized_shape, copy.weight, copy.bias, self.eps)


class Embedding(StoredWeights, nn.Embedding):
    """A table; only the rows that are looked up are cast, so preparing it takes nothing."""

    def __init__(self, num_embeddings: int, embedding_dim: int, device: Any = None) -> None:
        super().__init__(num_embeddings, embedding_dim, device=device)
        self.register_parameter("bias", None)
        self._start_empty()

    def prepare(self, device: torch.device | str, dtype: torch.dtype) -> int:
        return 0

    def forward(self, input: Tensor, out_dtype: torch.dtype = torch.float32) -> Tensor:
        """`[...]` of indices to `[..., D]` in `out_dtype`, on the device of `input`."""
        if self.weight_function:
            return F.embedding(input, self.cast_weights(input.device, out_dtype)[0])
        rows = self.weight[input.to(self.weight.device)].to(device=input.device, dtype=out_dtype)
        return rows if self.scale_weight is None else rows * self.scale_weight.to(rows)


def stored_layers(module: nn.Module) -> Iterator[tuple[str, StoredWeights]]:
    """The layers of `module` that hold weights, with their dotted names, in order."""
    for name, child in module.named_modules():
        if isinstance(child, StoredWeights):
            yield name, child


def prepare_layers(module: nn.Module, device: torch.device | str, dtype: torch.dtype) -> int:
    """Prepare every layer of `module`. Returns the bytes that the compute copies take."""
    with scratch_memory():
        return sum(layer.prepare(device, dtype) for _, layer in stored_layers(module))


def release_layers(module: nn.Module) -> int:
    """Drop every compute copy of `module`. Returns the bytes that they took."""
    return sum(layer.release() for _, layer in stored_layers(module))
