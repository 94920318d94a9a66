"""Importing what the first job would wait for, after the port is open."""

from __future__ import annotations

import logging
import shutil
import threading
from contextlib import nullcontext
from typing import TYPE_CHECKING

from comfyk_core_nodes.devices.settings import cpu_only

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
        with nullcontext() if app is None else app.active():
            if app is not None:
                registry.model_families()
            Image.preinit()
            if torch.cuda.is_available():
                torch.cuda.init()
            log.info("%s", device_line())
            if (advice := advice_on_torch()) is not None:
                log.warning("%s", advice)
    except Exception:
        log.warning("torch cannot be used", exc_info=True)


def device_line() -> str:
    """`torch 2.13.0+cu130 on cuda:0, NVIDIA ...: 24.0 GB of memory`. Imports torch."""
    import torch

    from comfyk_core_nodes.devices.device import GB, device_of, get_torch_device

    device = get_torch_device()
    name = {"cuda": torch.cuda, "xpu": torch.xpu}.get(device.type)
    named = "" if name is None else f", {name.get_device_name(device)}"
    return f"torch {torch.__version__} on {device}{named}: {device_of(device).total() / GB:.1f} GB of memory"


def advice_on_torch() -> str | None:
    """What to do when there is a GPU that this build of torch cannot use: PyPI's for Windows has no CUDA, say."""
    import torch

    if cpu_only() or torch.cuda.is_available() or torch.xpu.is_available():
        return None
    if torch.version.cuda is None and torch.version.hip is None and shutil.which("nvidia-smi") is not None:
        return (
            "there seems to be an NVIDIA GPU, and this build of torch is one for the CPU: install one for CUDA, as the "
            "README says under GPUs (`make start TORCH=cu130`)"
        )
    return None


def warm_up_later(app: App | None = None) -> threading.Timer:
    """Run `warm_up` on a daemon thread in a moment. Until then the timer can be cancelled."""
    timer = threading.Timer(WARM_UP_DELAY_S, warm_up, [app])
    timer.name = "warm-up"
    timer.daemon = True
    timer.start()
    return timer
