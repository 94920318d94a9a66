"""What torch is told around a job, and the memory that is given back after it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from comfyk_core_nodes.devices.freed import give_back
from comfyk_core_nodes.devices.settings import device_settings
from comfyk_core_nodes.devices.torch_import import loaded_torch
from comfyk_core_nodes.nodes import ids_with_torch

SHORT_JOB_S = 0.5
"""After a job that was shorter, giving back freed memory is not worth its time."""


def torch_for(prompt: Mapping[str, Any]) -> Awaitable[Any] | None:
    """What a job with these nodes has to wait for: the import of torch, on a thread, if a node needs it.

    Without this the node that is the first to import torch would run outside of its inference mode.
    """
    if loaded_torch() is not None:
        return None
    needing = ids_with_torch()
    if not any(node.get("class_type") in needing for node in prompt.values()):
        return None
    return asyncio.to_thread(_import_torch)


def _import_torch() -> None:
    import torch  # noqa: F401


@contextmanager
def job_context() -> Iterator[None]:
    """Run a job without the bookkeeping for gradients (`torch.inference_mode`), on this thread, if torch is there.

    Memory that weights are widened into is kept until its end, and what was freed is given back then. Raises
    ModelFileError when a file of weights got shorter while it was used, by whatever node.
    """
    torch = loaded_torch()
    if torch is None:
        yield
        return
    from comfyk_core_nodes.weights.mapped import scratch_memory
    from comfyk_core_nodes.weights.mapped_files import check_all_there

    if device_settings().deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
    started = time.monotonic()
    try:
        with scratch_memory(), torch.inference_mode():
            yield
            check_all_there()
    finally:
        if time.monotonic() - started > SHORT_JOB_S:
            give_back()
