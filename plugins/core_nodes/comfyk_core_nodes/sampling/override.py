"""Wrappers around a guider's steps, as `ModelPatcher.add_wrapper("predict_noise", ...)` takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor


class Wrapped:
    """A call with the wrappers around it. A wrapper gets what is inside of it first, then the arguments.

    `class_obj` is the object whose method is called. The names are the field's.
    """

    def __init__(
        self, function: Callable[..., Any], class_obj: Any, wrappers: Sequence[Callable[..., Any]]
    ) -> None:
        self.original = function
        self.class_obj = class_obj
        self.wrappers = tuple(wrappers)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.wrappers:
            return self.original(*args, **kwargs)
        inside = Wrapped(self.original, self.class_obj, self.wrappers[1:])
        return self.wrappers[0](inside, *args, **kwargs)

    execute = __call__


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
