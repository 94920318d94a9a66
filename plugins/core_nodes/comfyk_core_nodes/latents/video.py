"""Frames of a video latent `[B, C, T, h, w]`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)


def replace_frames(destination: Tensor, source: Tensor, index: int) -> Tensor | None:
    """`destination` with the frames of `source` from frame `index` on; a negative one counts from the end.

    None, and a warning, when they do not all fit.
    """
    frames, new = destination.shape[2], source.shape[2]
    start = index + frames if index < 0 else index
    if not 0 <= start <= frames - new:
        log.warning("%d frames at %d do not fit into a video latent of %d frames", new, index, frames)
        return None
    result = destination.clone()
    result[:, :, start : start + new] = source
    return result
