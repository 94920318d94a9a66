"""Wrappers around a guider's steps, as `ModelPatcher.add_wrapper("predict_noise", ...)` takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from comfyk_core_nodes.memory.extensions import Wrapped


def cfg_between(cfg: float, lowest: float, highest: float) -> Callable[..., Tensor]:
    """A wrapper that has the guider use another scale while sigma is within these bounds."""

    def wrapper(executor: Wrapped, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not lowest <= float(timestep.flatten()[0]) <= highest:
            return executor(x, timestep, *args, **kwargs)
        guider = executor.class_obj
        before = guider.cfg
        guider.cfg = cfg
        try:
            return executor(x, timestep, *args, **kwargs)
        finally:
            guider.cfg = before

    return wrapper
