"""Importing what the first job would wait for, after the port is open."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfyk import App

log = logging.getLogger(__name__)

WARM_UP_DELAY_S = 0.5
"""Importing torch takes 2 s, in parts of it nothing else runs: the first requests come before it."""


def warm_up(app: App | None = None) -> None:
    """Import what the first job would wait for, whose model is likely a Stable Diffusion, and start the GPU driver.

    An error is only logged.
    """
    try:
        import torch
        from PIL import Image

        from comfyk_core_nodes.families import checkpoint, registry  # noqa: F401
        from comfyk_core_nodes.families.sd import detection, models, text_encoders  # noqa: F401
        from comfyk_core_nodes.sampling import latents  # noqa: F401
        from comfyk_core_nodes.text import bpe

        bpe.clip_tokenizer()
        if app is not None:
            with app.active():
                registry.model_families()
        Image.preinit()
        if torch.cuda.is_available():
            torch.cuda.init()
    except Exception:
        log.warning("torch cannot be used", exc_info=True)


def warm_up_later(app: App | None = None) -> threading.Timer:
    """Run `warm_up` on a daemon thread in a moment. Until then the timer can be cancelled."""
    timer = threading.Timer(WARM_UP_DELAY_S, warm_up, [app])
    timer.name = "warm-up"
    timer.daemon = True
    timer.start()
    return timer
