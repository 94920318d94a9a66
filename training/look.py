"""Looks at a picture as a child would: which colour is the ground, which the shape, and what shape is it."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from training.draw import COLOURS, SHAPES, outline

_SIDE = 48
_PALETTE = np.array(list(COLOURS.values()), float)
_NAMES = list(COLOURS)


def names_of(picture: np.ndarray) -> np.ndarray:
    """For each pixel of `[H, W, 3]` the number of the nearest colour."""
    distances = ((picture[:, :, None, :].astype(float) - _PALETTE) ** 2).sum(-1)
    return distances.argmin(-1)


def ground_of(picture: np.ndarray) -> str:
    """The colour that most of the rim has."""
    names = names_of(picture)
    rim = np.concatenate([names[:3].ravel(), names[-3:].ravel(), names[:, :3].ravel(), names[:, -3:].ravel()])
    return _NAMES[np.bincount(rim, minlength=len(_NAMES)).argmax()]


def shape_of(picture: np.ndarray) -> tuple[str, str] | None:
    """The colour and the kind of what stands on the ground, or None where nothing does."""
    names = names_of(picture)
    ground = _NAMES.index(ground_of(picture))
    away = ((picture.astype(float) - _PALETTE[ground]) ** 2).sum(-1) > 60**2
    if away.sum() < 30:
        return None
    counts = np.bincount(names[away], minlength=len(_NAMES))
    counts[ground] = 0
    colour = _NAMES[counts.argmax()]
    rows, columns = np.where(away)
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    mask = np.asarray(Image.fromarray(away.astype(np.uint8) * 255).crop(box).resize((_SIDE, _SIDE))) > 127
    wide = (box[2] - box[0]) / (box[3] - box[1])
    fits = {kind: _overlap(mask, _mask(kind)) - 0.5 * abs(np.log(wide / _ratio(kind))) for kind in SHAPES}
    return colour, max(fits, key=lambda kind: fits[kind])


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


@cache
def _drawn(kind: str) -> np.ndarray:
    image = Image.new("L", (400, 400))
    pen = ImageDraw.Draw(image)
    points = [(x * 400, y * 400) for x, y in outline(kind, 0.5, 0.5, 0.4)]
    pen.polygon(points, fill=255)
    if kind == "ring":
        inside = 0.4 - 0.4 * 0.36
        pen.ellipse(
            [(0.5 - inside) * 400, (0.5 - inside) * 400, (0.5 + inside) * 400, (0.5 + inside) * 400], fill=0
        )
    rows, columns = np.where(np.asarray(image) > 0)
    return np.asarray(image)[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def _ratio(kind: str) -> float:
    height, width = _drawn(kind).shape
    return width / height


@cache
def _mask(kind: str) -> np.ndarray:
    return np.asarray(Image.fromarray(_drawn(kind)).resize((_SIDE, _SIDE))) > 127
