"""Values that are no numbers: pictures of them are black, and nothing else says why."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from comfyk import progress_text

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

LATENT_ADVICE = (
    "the weights of the model or of a LoRA are damaged, or it overflows in half precision: try --force-fp32, "
    "another sampler, or another file"
)
PICTURE_ADVICE = (
    "the latent or the weights of the VAE are so, or the VAE overflows in half precision: "
    "try --fp32-vae, or another VAE"
)
SAVED_ADVICE = "they become black"


def warn_of_nan(values: Tensor, what: str, advice: str) -> None:
    """Say so in the log and on the running node when some of the values are NaN or infinite."""
    if not values.is_floating_point() or not values.numel():
        return
    import torch

    # One number to look at: it takes no memory, and is finite if all values are, but for overflow.
    if math.isfinite(float(values.sum(dtype=torch.float32))):
        return
    bad = values.numel() - int(values.isfinite().sum())
    if bad:
        message = f"{bad:,} of {values.numel():,} values of {what} are no numbers (NaN or infinite): {advice}"
        log.warning(message)
        progress_text(f"Warning: {message}")
