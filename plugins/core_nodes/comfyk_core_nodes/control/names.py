"""Names that schemas need; no torch here."""

from __future__ import annotations

UNION_CONTROLNET_TYPES = {
    "openpose": 0,
    "depth": 1,
    "hed/pidi/scribble/ted": 2,
    "canny/lineart/anime_lineart/mlsd": 3,
    "normal": 4,
    "segment": 5,
    "tile": 6,
    "repaint": 7,
}
"""The kinds of hints of a union ControlNet, by the number that it was trained with (xinsir6/ControlNetPlus)."""


def union_type_numbers(name: str) -> list[int]:
    """What `control_type` is for a name of a menu: empty for `auto`, and for a name that is not known."""
    number = UNION_CONTROLNET_TYPES.get(name)
    return [] if number is None else [number]
