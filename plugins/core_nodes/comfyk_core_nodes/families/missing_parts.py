"""Parts of models that a checkpoint lacks. Importing this imports no torch."""

from __future__ import annotations

from typing import TypeVar

_T = TypeVar("_T")

_MISSING = {
    "CLIP": "there is no text encoder: the checkpoint does not hold one; load it with Load CLIP",
    "VAE": "there is no VAE: the checkpoint does not hold one; load it with Load VAE",
    "CLIP_VISION": (
        "there is no CLIP vision model: the checkpoint does not hold one; load it with Load CLIP Vision"
    ),
}


def present(part: _T | None, kind: str) -> _T:
    """The part of a model that came out of a socket of `kind`: `CLIP`, `VAE` or `CLIP_VISION`.

    Raises ValueError where it is None, as the loader gives for what a checkpoint does not hold.
    """
    if part is None:
        raise ValueError(_MISSING[kind])
    return part
