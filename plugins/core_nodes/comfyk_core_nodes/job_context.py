"""What torch is told around a job, and the memory that is given back after it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from comfyk_core_nodes.devices.freed import give_back
from comfyk_core_nodes.devices.settings import device_settings

SHORT_JOB_S = 0.5
"""After a job that was shorter, giving back freed memory is not worth its time."""


@contextmanager
def job_context() -> Iterator[None]:
    """Run a job without the bookkeeping for gradients (`torch.inference_mode`), on this thread.

    Memory that weights are widened into is kept until its end, and what was freed is given back then. The job waits
    for the import of torch, whatever nodes it has: nearly all need it, and without this the node that is the first to
    import it would run in the wrong mode. So a job without torch nodes waits for up to the 2 s that the import takes
    when it comes in the first seconds of the server; later it loses microseconds.
    """
    import torch

    from comfyk_core_nodes.weights.mapped import scratch_memory

    if device_settings().deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
    started = time.monotonic()
    try:
        with scratch_memory(), torch.inference_mode():
            yield
    finally:
        if time.monotonic() - started > SHORT_JOB_S:
            give_back()
