"""Parts of models that do not go together, or that a checkpoint lacks. Importing this imports no torch."""

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
_FAMILY_OF_WIDTH = {768: "SD 1.x", 1024: "SD 2.x", 1280: "the SDXL refiner", 2048: "SDXL"}


def present(part: _T | None, kind: str) -> _T:
    """The part of a model that came out of a socket of `kind`: `CLIP`, `VAE` or `CLIP_VISION`.

    Raises ValueError where it is None, as the loader gives for what a checkpoint does not hold.
    """
    if part is None:
        raise ValueError(_MISSING[kind])
    return part


def text_width(channels: int) -> str:
    """A prompt's channels, with the family of models whose text encoders give as many: `768 channels (SD 1.x)`."""
    family = _FAMILY_OF_WIDTH.get(channels)
    return f"{channels} channels" if family is None else f"{channels} channels ({family})"
