"""Low-rank and other compact forms of a change to a weight: how each one is turned into the change.

An adapter is what a LoRA file holds for one weight. `calculate_weight` adds it to the weight. Sources: LoRA (Hu et
al. 2021, arXiv:2106.09685), IA3 (Liu et al. 2022, arXiv:2205.05638), LoHa and LoKr (Yeh et al. 2023,
arXiv:2309.14859), GLoRA (Chavan et al. 2023, arXiv:2306.07967), OFT (Qiu et al. 2023, arXiv:2306.07280), BOFT (Liu et
al. 2023, arXiv:2311.06243), DoRA (Liu et al. 2024, arXiv:2402.09353).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from comfyk_core_nodes.devices.exhausted import exhausted

log = logging.getLogger(__name__)

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class WeightAdapter:
    """One adapter: `name` is its kind, `weights` its tensors in the order that the function of the kind takes them.

    `loaded_keys` are the keys of the file that it was read from.
    """

    name: str
    weights: Sequence[Any]
    loaded_keys: set[str] = field(default_factory=set)

    def calculate_weight(
        self,
        weight: Tensor,
        key: str,
        strength: float,
        strength_model: float = 1.0,
        offset: Any = None,
        function: Function | None = None,
        intermediate_dtype: torch.dtype = torch.float32,
        original_weight: Any = None,
    ) -> Tensor:
        """Add the change, times `strength`, to `weight` in place, and return it.

        A change of another shape than the weight's is logged and left out. The change is computed in
        `intermediate_dtype`; `function` is applied to it before it is added.
        """
        if strength == 0.0:
            return weight

        def here(tensor: Tensor) -> Tensor:
            return tensor.to(device=weight.device, dtype=intermediate_dtype)

        try:
            change, scale, dora_scale = _KINDS[self.name](self.weights, weight, strength, here)
            change = change.reshape(weight.shape)
            if dora_scale is not None:
                return _decompose(weight, change * scale, here(dora_scale), strength, function)
        except (RuntimeError, ValueError, IndexError, AttributeError) as error:
            if exhausted(error):
                raise
            log.warning(
                "%s: a %s patch does not fit the weight %s and is left out: %s",
                key,
                self.name,
                list(weight.shape),
                error,
            )
            return weight
        change = (strength * scale * change).to(weight.dtype)
        weight += change if function is None else function(change)
        return weight


def _decompose(
    weight: Tensor, change: Tensor, dora_scale: Tensor, strength: float, function: Function | None
) -> Tensor:
    """DoRA: the direction of the changed weight, at the trained magnitude `dora_scale`.

    The magnitude is per output (`[out, 1, ...]`) or per input (`[1, in, ...]`). Per output it is the unchanged weight
    whose norm is divided by, as ComfyUI does it.
    """
    changed = weight + (change if function is None else function(change)).to(weight.dtype)
    if dora_scale.shape[0] == weight.shape[0]:
        norm = weight.flatten(1).norm(dim=1).reshape(-1, *[1] * (weight.dim() - 1))
    else:
        norm = changed.transpose(0, 1).flatten(1).norm(dim=1).reshape(1, -1, *[1] * (weight.dim() - 2))
    norm = norm + torch.finfo(weight.dtype).eps
    changed *= (dora_scale / norm).to(weight.dtype)
    if strength == 1.0:
        weight.copy_(changed)
    else:
        weight += strength * (changed - weight)
    return weight


Cast = Callable[[Tensor], Tensor]
Change = tuple[Tensor, float, Tensor | None]
"""The change, what to multiply it with (alpha / rank), and the DoRA magnitude."""


def _scale(alpha: float | None, rank: int) -> float:
    return 1.0 if alpha is None else alpha / rank


def _lora(weights: Sequence[Any], weight: Tensor, strength: float, here: Cast) -> Change:
    """`up [out, r, ...] @ down [r, in, ...]`; with `mid [r, r, kh, kw]` a Tucker decomposition of a convolution."""
    up, down, alpha, mid, dora_scale = [*weights, None, None, None][:5]
    up, down = here(up), here(down)
    rank = down.shape[0]
    if mid is not None:
        down = torch.einsum("a b k l, b i -> a i k l", here(mid), down.flatten(1))
    return up.flatten(1) @ down.flatten(1), _scale(alpha, rank), dora_scale


def _tucker(core: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.einsum("i j k l, i p, j r -> p r k l", core, a, b)


def _loha(weights: Sequence[Any], weight: Tensor, strength: float, here: Cast) -> Change:
    """The elementwise product of two low-rank matrices."""
    w1_a, w1_b, alpha, w2_a, w2_b, t1, t2, dora_scale = weights
    if t1 is not None:
        change = _tucker(here(t1), here(w1_a), here(w1_b)) * _tucker(here(t2), here(w2_a), here(w2_b))
    else:
        change = (here(w1_a) @ here(w1_b)) * (here(w2_a) @ here(w2_b))
    return change, _scale(alpha, w1_b.shape[0]), dora_scale


def _lokr(weights: Sequence[Any], weight: Tensor, strength: float, here: Cast) -> Change:
    """The Kronecker product of two matrices, each whole or of low rank. alpha counts only with a low rank."""
    w1, w2, alpha, w1_a, w1_b, w2_a, w2_b, t2, dora_scale = weights
    rank = None
    if w1 is not None:
        w1 = here(w1)
    else:
        rank, w1 = w1_b.shape[0], here(w1_a) @ here(w1_b)
    if w2 is not None:
        w2 = here(w2)
    else:
        rank = w2_b.shape[0]
        w2 = here(w2_a) @ here(w2_b) if t2 is None else _tucker(here(t2), here(w2_a), here(w2_b))
    if w2.dim() == 4:
        w1 = w1[:, :, None, None]
    # kron takes a view of its second argument, which a Tucker core is not laid out for.
    return torch.kron(w1, w2.contiguous()), 1.0 if rank is None else _scale(alpha, rank), dora_scale


def _glora(weights: Sequence[Any], weight: Tensor, strength: float, here: Cast) -> Change:
    """`W A + B`, A and B of low rank. Older files have the factors the other way round; their shapes tell."""
    a1, a2, b1, b2, alpha, dora_scale = weights
    a1, a2, b1, b2 = (here(factor).flatten(1) for factor in (a1, a2, b1, b2))
    old = b2.shape[1] == b1.shape[0] == a1.shape[0] == a2.shape[1]
    new = b2.shape[0] == b1.shape[1] == a1.shape[1] == a2.shape[0]
    if old and new:  # all square: an old file if the rank is the size of the weight
        old = a2.shape[0] == weight.shape[0] == weight.shape[1]
    if not old and not new:
        shapes = [list(factor.shape) for factor in (a1, a2, b1, b2)]
        raise ValueError(f"the factors {shapes} of a GLoRA have no rank in common")
    base = here(weight)
    if old:
        change = (base.flatten(1) @ a2 @ a1 + b2 @ b1).reshape(weight.shape)
        return change, _scale(alpha, a1.shape[0]), dora_scale
    change = torch.einsum("o i ..., i r, r j -> o j ...", base, a1, a2) + (b1 @ b2).reshape(weight.shape)
    return change, _scale(alpha, a2.shape[0]), dora_scale


def _rotation(blocks: Tensor, limit: float) -> Tensor:
    """Orthogonal matrices from square ones by the Cayley transform; `limit` bounds how far they turn (COFT)."""
    identity = torch.eye(blocks.shape[-1], device=blocks.device, dtype=blocks.dtype)
    skew = blocks - blocks.transpose(-1, -2)
    if limit > 0:
        norm = skew.norm() + 1e-8
        if norm > limit:
            skew = skew * limit / norm
    inverse = torch.linalg.inv((identity - skew).float())
    return (identity + skew) @ inverse.to(skew.dtype)


def _oft(weights: Sequence[Any], weight: Tensor, strength: float, here: Cast) -> Change:
    """Blocks of outputs turned by orthogonal matrices.

    ComfyUI multiplies by the strength here and once more when it adds the change; so it is here.
    """
    blocks, _, alpha, dora_scale = weights
    turn = _rotation(here(blocks), alpha or 0.0)
    turn = turn - torch.eye(turn.shape[-1], device=turn.device, dtype=turn.dtype)
    grouped = here(weight).reshape(turn.shape[0], turn.shape[1], *weight.shape[1:])
    change = strength * torch.einsum("k n m, k n ... -> k m ...", turn, grouped)
    return change, alpha or 0.0 if dora_scale is not None else 1.0, dora_scale


def _boft(weights: Sequence[Any], weight: Tensor, strength: float, here: Cast) -> Change:
    """Outputs turned by a product of block-diagonal matrices, each after a butterfly permutation.

    As with OFT the strength counts twice.
    """
    blocks, rescale, alpha, dora_scale = weights
    turns = _rotation(here(blocks), alpha or 0.0)
    size = turns.shape[-1]
    identity = torch.eye(size, device=turns.device, dtype=turns.dtype)
    out = base = here(weight)
    for step, turn in enumerate(turns):
        # Outputs that are 2^step * size / 2 apart meet in one block.
        reach = 2**step * (size // 2)
        out = out.unflatten(0, (-1, 2, reach)).transpose(1, 2).flatten(0, 2).unflatten(0, (-1, size))
        out = torch.einsum("b i j, b j ... -> b i ...", turn * strength + (1 - strength) * identity, out)
        out = out.flatten(0, 1).unflatten(0, (-1, reach, 2)).transpose(1, 2).flatten(0, 2)
    if rescale is not None:
        out = out * here(rescale)
    return out - base, alpha or 0.0 if dora_scale is not None else 1.0, dora_scale


def _ia3(weights: Sequence[Any], weight: Tensor, strength: float, here: Cast) -> Change:
    """Outputs (or inputs) made larger and smaller: `scales` `[1, out]` (or `[1, in]`), 0 being no change."""
    scales, on_input = weights
    dim = 1 if on_input else 0
    shape = [1] * weight.dim()
    shape[dim] = weight.shape[dim]
    return here(weight) * here(scales).reshape(shape), 1.0, None


_KINDS: dict[str, Callable[[Sequence[Any], Tensor, float, Cast], Change]] = {
    "lora": _lora,
    "loha": _loha,
    "lokr": _lokr,
    "glora": _glora,
    "oft": _oft,
    "boft": _boft,
    "ia3": _ia3,
}

ADAPTERS = frozenset(_KINDS)
"""The kinds of adapters, as `WeightAdapter.name` and older `(name, weights)` patches have them."""
