"""What a list of patches makes of a weight.

A patch is `(strength, value, strength_model, offset, function)`: the weight is multiplied by `strength_model`, then
`strength` times the change that `value` stands for is added. `offset` is `(dimension, start, length)`, the part of
the weight that is meant; `function` is applied to the change. `value` is

- a `WeightAdapter` (or anything with its `calculate_weight`);
- `(tensor,)` or `("diff", (tensor,))`: the change itself; `("diff", (tensor, {"pad_weight": True}))` may be larger
  than the weight, which is then padded with zeros; nothing is added at strength 0, so the tensor may be None;
- `("set", (tensor,))`: the weight is this, whatever the strength;
- `("model_as_lora", (tensor,))`: the change from the original weight to this one;
- `("lora", (...))` and other adapters by name;
- a list as `ModelPatcher.get_key_patches` gives it: the weight of another model, `[(tensor, convert), *patches]`.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from comfyk_core_nodes.memory.adapters import ADAPTERS, WeightAdapter
from comfyk_core_nodes.memory.rounding import stochastic_rounding
from comfyk_core_nodes.weights.dtypes import lora_compute_dtype

log = logging.getLogger(__name__)

Patch = tuple[float, Any, float, "tuple[int, int, int] | None", "Callable[[Tensor], Tensor] | None"]
Convert = Callable[..., Tensor]


def string_to_seed(text: str) -> int:
    """The CRC-32 of the text: each weight has a seed of its own, the same in every run."""
    return zlib.crc32(text.encode())


def patched_weight(weight: Tensor, patches: Sequence[Patch], key: str, dtype: torch.dtype) -> Tensor:
    """A new tensor: `weight` with `patches`, in `dtype`, on the weight's device. `weight` is left as it is.

    It is computed in at least the precision of `dtype`; rounding to fp8 is stochastic, seeded by the key.
    """
    work = lora_compute_dtype(weight.device)
    if dtype.itemsize > work.itemsize and dtype.is_floating_point:
        work = dtype
    return stochastic_rounding(
        calculate_weight(patches, weight.to(work, copy=True), key), dtype, seed=string_to_seed(key)
    )


def calculate_weight(
    patches: Sequence[Patch],
    weight: Tensor,
    key: str,
    intermediate_dtype: torch.dtype = torch.float32,
    original_weights: Mapping[str, Any] | None = None,
) -> Tensor:
    """Apply `patches` to `weight`, in place where the shape stays, and return the result.

    Changes are computed in `intermediate_dtype`. `original_weights` (as `get_key_patches` gives them) is what
    `model_as_lora` patches are the difference to. A change that does not fit is logged and left out.
    """
    for strength, value, strength_model, offset, function in patches:
        part = weight if offset is None else weight.narrow(*offset)
        if strength_model != 1.0:
            part *= strength_model
        if isinstance(value, list):
            (other, convert), *others = value
            other = convert(other.to(device=part.device, dtype=intermediate_dtype, copy=True), inplace=True)
            value = (calculate_weight(others, other, key, intermediate_dtype),)
        name, data = _read(value)
        if name == "adapter":
            result = data.calculate_weight(
                part,
                key,
                strength,
                strength_model,
                offset,
                function or _same,
                intermediate_dtype,
                original_weights,
            )
        elif name == "diff":
            result = _add(part, data, strength, function or _same, key)
        elif name == "set":
            result = part.copy_(data[0])
        elif name == "model_as_lora":
            original = (original_weights or {})[key][0][0]
            change = data[0].to(part.device, intermediate_dtype) - original.to(
                part.device, intermediate_dtype
            )
            result = _add(part, (change,), strength, function or _same, key)
        else:
            log.warning("%s: there is no kind of patch %r; it is left out", key, name)
            continue
        if offset is None and result is not None:
            weight = result
    return weight


def tensors_of(patch: Any) -> Iterator[Tensor]:
    """The tensors that a patch is made of, as far as its kind is known here."""
    todo = [patch]
    while todo:
        part = todo.pop()
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, (tuple, list)):
            todo.extend(part)
        else:
            todo.extend(getattr(part, "weights", ()) or ())


def _same(change: Tensor) -> Tensor:
    return change


def _read(value: Any) -> tuple[str, Any]:
    """The kind of a patch's value, and its data. What has `calculate_weight` is an adapter."""
    if hasattr(value, "calculate_weight"):
        return "adapter", value
    if len(value) == 1:
        return "diff", value
    name, data = value
    return ("adapter", WeightAdapter(name, data)) if name in ADAPTERS else (name, data)


def _add(
    weight: Tensor, data: Sequence[Any], strength: float, function: Callable[[Tensor], Tensor], key: str
) -> Tensor:
    change: Tensor | None = data[0]
    if change is not None and len(data) > 1 and data[1].get("pad_weight"):
        weight = _pad(weight, change.shape)
    if strength == 0.0 or change is None:
        return weight
    if change.shape != weight.shape:
        log.warning(
            "%s: a change of shape %s does not fit the weight %s and is left out",
            key,
            list(change.shape),
            list(weight.shape),
        )
        return weight
    weight += function(strength * change.to(device=weight.device, dtype=weight.dtype))
    return weight


def _pad(weight: Tensor, shape: Sequence[int]) -> Tensor:
    """The weight with zeros after it in each dimension, up to `shape`. Raises ValueError for a smaller shape."""
    if len(shape) != weight.dim() or any(size < old for size, old in zip(shape, weight.shape, strict=True)):
        raise ValueError(f"a weight of shape {list(weight.shape)} cannot be padded to {list(shape)}")
    sides = [side for size, old in zip(shape, weight.shape, strict=True) for side in (size - old, 0)]
    return F.pad(weight, sides[::-1])
