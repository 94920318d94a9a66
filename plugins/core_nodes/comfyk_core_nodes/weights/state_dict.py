"""State dicts, `{key: tensor}`: taking a part of one, and counting what is in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

StateDict = dict[str, Tensor]


def with_prefix(state: Mapping[str, Tensor], prefix: str) -> StateDict:
    """The entries whose key starts with `prefix`, without it."""
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def count_blocks(keys: Iterable[str], pattern: str) -> int:
    """How many of `pattern.format(0)`, `pattern.format(1)` ... some key starts with, counted without gaps."""
    start, _, rest = pattern.partition("{}")
    found = set()
    for key in keys:
        if key.startswith(start):
            number = key[len(start) :].partition(".")[0] if not rest else key[len(start) :].partition(rest)[0]
            if number.isdecimal():
                found.add(int(number))
    count = 0
    while count in found:
        count += 1
    return count


def stored_dtype(state: Mapping[str, Tensor], prefix: str = "") -> torch.dtype:
    """The floating dtype that most weights under `prefix` are stored in; float32 where there are none."""
    sizes: dict[torch.dtype, int] = {}
    for key, value in state.items():
        if key.startswith(prefix) and value.is_floating_point():
            sizes[value.dtype] = sizes.get(value.dtype, 0) + value.numel()
    return max(sizes, key=lambda dtype: sizes[dtype]) if sizes else torch.float32
