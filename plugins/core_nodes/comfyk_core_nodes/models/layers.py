"""The layers that every network here is built of: weights as the file has them, computed in the dtype of the input.

A layer's `weight` and `bias` stay what was read: usually a view of the mapped file, in the file's dtype. There are
two ways to compute with them:

- `prepare(device, dtype)` makes a compute copy once: cast, moved, patched by `weight_function`, and on the CPU packed
  into the blocked layout that oneDNN works in. Without packing, oneDNN reorders each weight in each call, which takes
  longer than the convolution itself where pictures are small (8x8: 3 times, 4x4: 5 times).
- without it the weight is cast and patched at each use, and nothing is kept: for layers that do not fit the device.

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

from comfyk_core_nodes.memory.settings import device_settings
from comfyk_core_nodes.models.mapped import scratch, scratch_memory

WeightFunction = Callable[[Tensor], Tensor]


@dataclass(slots=True)
class ComputeCopy:
    """A layer's weights as its kernel takes them. `packed` is oneDNN's layout, which only its kernels read."""

    weight: Tensor
    bias: Tensor | None
    device: torch.device
    dtype: torch.dtype
    packed: bool = False

    def nbytes(self) -> int:
        bias = 0 if self.bias is None else self.bias.nbytes
        return self.weight.numel() * self.dtype.itemsize + bias


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
        """Make the compute copy for `device` and `dtype`. Returns the bytes that it takes."""
        device = torch.device(device)
        copy = self._copy
        if copy is None or copy.device != device or copy.dtype != dtype:
            copy = self._packed(dtype) if device.type == "cpu" and _can_pack(dtype) else None
            if copy is None:
                copy = ComputeCopy(*self.cast_weights(device, dtype), device, dtype)
            self._copy = copy
        return copy.nbytes()

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
        bias = self.bias
        if bias is not None:
            bias = bias.to(device=device, dtype=dtype)
            for function in self.bias_function:
                bias = function(bias)
        return weight, bias

    def _weights_for(self, x: Tensor) -> ComputeCopy:
        copy = self._copy
        if copy is not None and copy.dtype == x.dtype and copy.device == x.device:
            return copy
        return ComputeCopy(*self.cast_weights(x.device, x.dtype), x.device, x.dtype)

    def _packed(self, dtype: torch.dtype) -> ComputeCopy | None:
        """A compute copy on the CPU, packed by `_pack`. None for a layer that has no use for it."""
        if type(self)._pack is StoredWeights._pack:
            return None
        out = None
        if self.weight.dtype != dtype:
            out = scratch(self.weight.shape, dtype)
        weight, bias = self.cast_weights(CPU, dtype, out)
        return ComputeCopy(self._pack(weight.contiguous()), bias, CPU, dtype, packed=True)

    def _pack(self, weight: Tensor) -> Tensor:
        """`weight` in the layout that this layer's kernel is fastest with: a copy."""
        raise NotImplementedError


CPU = torch.device("cpu")


def _can_pack(dtype: torch.dtype) -> bool:
    return dtype == torch.float32 and torch.backends.mkldnn.is_available()


class Linear(StoredWeights, nn.Linear):
    """`[..., in] -> [..., out]`."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, device: Any = None) -> None:
        super().__init__(in_features, out_features, bias=bias, device=device)
        self._start_empty()

    def _pack(self, weight: Tensor) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(weight, None)

    def forward(self, input: Tensor) -> Tensor:
        copy = self._weights_for(input)
        if copy.packed:
            return torch.ops.mkldnn._linear_pointwise(input, copy.weight, copy.bias, "none", [], "")
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

    @property
    def _plain_padding(self) -> list[int]:
        return [int(side) for side in self.padding]

    def cast_weights(
        self, device: torch.device, dtype: torch.dtype, out: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        weight, bias = super().cast_weights(device, dtype, out)
        if device_settings().channels_last:
            weight = weight.contiguous(memory_format=torch.channels_last)
        return weight, bias

    def _pack(self, weight: Tensor) -> Tensor:
        layout = (self._plain_padding, list(self.stride), list(self.dilation), self.groups)
        return torch.ops.mkldnn._reorder_convolution_weight(weight, *layout)

    def forward(self, input: Tensor) -> Tensor:
        copy = self._weights_for(input)
        if copy.packed:
            return torch.ops.mkldnn._convolution_pointwise(
                input,
                copy.weight,
                copy.bias,
                self._plain_padding,
                list(self.stride),
                list(self.dilation),
                self.groups,
                "none",
                [],
                "",
            )
        return self._conv_forward(input, copy.weight, copy.bias)


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
