"""A value that a model is given next to the latent: how it fits a batch and an area, and joins with others.

The names are those of the field. `process_cond` gives the value for one part of the picture and batch; the values of
parts that run together are joined by `concat`, if `can_concat` says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from comfyk_core_nodes.images.batch import repeat_to_batch

MAX_REPEATS = 4
"""How often the shorter of two prompts may be repeated to be as long as the longer one."""


def cut_area(tensor: Tensor, area: Sequence[int] | None, first_dim: int = 2) -> Tensor:
    """The part of `tensor` in `area`, which has the sizes of all dimensions, then their offsets."""
    if area is not None:
        dims = len(area) // 2
        for dim in range(dims):
            tensor = tensor.narrow(first_dim + dim, area[dims + dim], area[dim])
    return tensor


class CONDRegular:
    """A tensor with one item for each of the batch."""

    def __init__(self, cond: Any) -> None:
        self.cond = cond

    def process_cond(self, batch_size: int, area: Sequence[int] | None = None) -> CONDRegular:
        return type(self)(repeat_to_batch(self.cond, batch_size))

    def can_concat(self, other: CONDRegular) -> bool:
        return self.cond.shape == other.cond.shape and self.cond.device == other.cond.device

    def concat(self, others: Sequence[CONDRegular]) -> Any:
        return torch.cat([self.cond, *[other.cond for other in others]])

    def size(self) -> list[int]:
        """A shape from which the memory that it needs can be told."""
        return list(self.cond.size())


class CONDNoiseShape(CONDRegular):
    """A tensor over the latent's places, `[B, C, H, W]`: it is cut as the latent is."""

    def process_cond(self, batch_size: int, area: Sequence[int] | None = None) -> CONDNoiseShape:
        return type(self)(repeat_to_batch(cut_area(self.cond, area), batch_size))


class CONDCrossAttn(CONDRegular):
    """A prompt, `[B, T, D]`. Shorter ones are repeated: cross attention gives the same for a prompt said twice."""

    def can_concat(self, other: CONDRegular) -> bool:
        mine, others = self.cond.shape, other.cond.shape
        if mine != others:
            if mine[0] != others[0] or mine[2] != others[2]:
                return False
            if math.lcm(mine[1], others[1]) // min(mine[1], others[1]) > MAX_REPEATS:
                return False
        return self.cond.device == other.cond.device

    def concat(self, others: Sequence[CONDRegular]) -> Tensor:
        prompts = [self.cond, *[other.cond for other in others]]
        length = math.lcm(*[prompt.shape[1] for prompt in prompts])
        return torch.cat([prompt.repeat(1, length // prompt.shape[1], 1) for prompt in prompts])


class CONDConstant(CONDRegular):
    """A value that is the same for the whole batch."""

    def process_cond(self, batch_size: int, area: Sequence[int] | None = None) -> CONDConstant:
        return self

    def can_concat(self, other: CONDRegular) -> bool:
        return _same(self.cond, other.cond)

    def concat(self, others: Sequence[CONDRegular]) -> Any:
        return self.cond

    def size(self) -> list[int]:
        return [1]


class CONDList(CONDRegular):
    """A list of tensors, each with one item for each of the batch."""

    def process_cond(self, batch_size: int, area: Sequence[int] | None = None) -> CONDList:
        return type(self)([repeat_to_batch(tensor, batch_size) for tensor in self.cond])

    def can_concat(self, other: CONDRegular) -> bool:
        return [tensor.shape for tensor in self.cond] == [tensor.shape for tensor in other.cond]

    def concat(self, others: Sequence[CONDRegular]) -> list[Tensor]:
        lists = [self.cond, *[other.cond for other in others]]
        return [torch.cat(tensors) for tensors in zip(*lists, strict=True)]

    def size(self) -> list[int]:
        return [1, 1, sum(tensor.numel() for tensor in self.cond)]


def _same(a: Any, b: Any) -> bool:
    """Equality that looks into containers and compares tensors by what they hold."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and type(a) is type(b):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)
