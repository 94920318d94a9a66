"""A conditioning as nodes pass it on: a list of `[prompt, options]`; a prompt is `[1, T, D]` or None.

Importing this imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Conditioning = Sequence[Sequence[Any]]
NewConditioning = list[list[Any]]


def conditioning_set_values(
    conditioning: Conditioning, values: Mapping[str, Any], append: bool = False
) -> NewConditioning:
    """Set options on every entry; with `append`, add to what is there."""
    edited = []
    for prompt, options in conditioning:
        options = dict(options)
        for key, value in values.items():
            before = options.get(key) if append else None
            options[key] = value if before is None else before + value
        edited.append([prompt, options])
    return edited
