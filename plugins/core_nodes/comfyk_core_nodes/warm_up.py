"""Importing what the first job would wait for, after the port is open."""

from __future__ import annotations

import logging
import threading

log = logging.getLogger(__name__)

WARM_UP_DELAY_S = 0.5
"""Importing torch takes 2 s, in parts of it nothing else runs: the first requests come before it."""


def warm_up() -> None:
    """Import what the first job would wait for, and start the GPU driver. An error is only logged."""
    try:
        import torch
        from PIL import Image

        from comfyk_core_nodes.sampling import latents  # noqa: F401
        from comfyk_core_nodes.text import bpe

        bpe.clip_tokenizer()
        Image.preinit()
        if torch.cuda.is_available():
            torch.cuda.init()
    except Exception:
        log.warning("torch cannot be used", exc_info=True)


def warm_up_later() -> threading.Timer:
    """Run `warm_up` on a daemon thread in a moment. Until then the timer can be cancelled."""
    timer = threading.Timer(WARM_UP_DELAY_S, warm_up)
    timer.name = "warm-up"
    timer.daemon = True
    timer.start()
    return timer
