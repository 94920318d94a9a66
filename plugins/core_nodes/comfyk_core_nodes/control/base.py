"""What all controls share: the hint and its size, strength, range of timesteps, and the chain of controls before it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Self

import torch
from torch import Tensor

from comfyk_core_nodes.families.sd.unet import Control
from comfyk_core_nodes.images.batch import repeat_to_batch
from comfyk_core_nodes.images.resize import resize_images

KINDS = ("input", "middle", "output")


class StrengthType(Enum):
    """How `strength` weighs the residuals of one list."""

    CONSTANT = 1
    LINEAR_UP = 2
    """`strength ** (n - i)` for residual `i` of `n`: the deeper in the network, the more is left of it."""


class ControlBase:
    """A control with what a node set on it. Attribute and method names are the field's.

    Nodes `copy` a loaded control, which shares its weights, and give the copy its picture by `set_cond_hint`. The
    sampler calls `pre_run`, then `get_control` at each step, then `cleanup`.
    """

    def __init__(self) -> None:
        self.cond_hint_original: Tensor | None = None
        """The picture as it came, `[B, C, H, W]` from 0 to 1."""
        self.cond_hint: Tensor | None = None
        """The picture at the size of this run, `[B, C', H', W']`."""
        self.strength = 1.0
        self.strength_type = StrengthType.CONSTANT
        self.timestep_percent_range = (0.0, 1.0)
        self.timestep_range: tuple[float, float] | None = None
        """First and last sigma of this run at which it acts."""
        self.global_average_pooling = False
        self.compression_ratio = 8
        """Pixels of the hint to a pixel of the latent."""
        self.upscale_algorithm = "nearest-exact"
        self.previous_controlnet: ControlBase | None = None
        self.extra_args: dict[str, Any] = {}
        """Arguments for the network besides those of every step."""
        self.extra_conds: list[str] = []
        """Values of a conditioning that the network takes too."""
        self.concat_mask = False
        """Whether the network takes a mask of what to keep as one more channel of the hint."""
        self.extra_concat_orig: list[Tensor] = []

    def set_cond_hint(
        self,
        cond_hint: Tensor,
        strength: float = 1.0,
        timestep_percent_range: tuple[float, float] = (0.0, 1.0),
        vae: Any = None,
        extra_concat: Sequence[Tensor] = (),
    ) -> Self:
        """Give the control its picture `[B, C, H, W]`. `extra_concat` `[B, C', h, w]` are channels to put after it.

        `vae` is for networks that take the latent of the picture, as those of SD3 and Flux do; none of these does.
        """
        self.cond_hint_original = cond_hint
        self.strength = strength
        self.timestep_percent_range = timestep_percent_range
        self.extra_concat_orig = list(extra_concat)
        if self.concat_mask and not self.extra_concat_orig:
            self.extra_concat_orig.append(torch.ones(1, 1, 1, 1))
        self._forget_run()
        return self

    def set_previous_controlnet(self, controlnet: ControlBase | None) -> Self:
        self.previous_controlnet = controlnet
        return self

    def set_extra_arg(self, argument: str, value: Any = None) -> None:
        self.extra_args[argument] = value

    def copy(self) -> Self:
        """A control with the same weights and settings, not chained to any."""
        other = copy.copy(self)
        other.extra_args = dict(self.extra_args)
        other.extra_conds = list(self.extra_conds)
        other.extra_concat_orig = list(self.extra_concat_orig)
        other.previous_controlnet = None
        other._forget_run()
        return other

    def pre_run(self, model: Any, percent_to_timestep_function: Callable[[float], float]) -> None:
        """Get ready for a run of `model`, for the controls before this one too."""
        start, end = self.timestep_percent_range
        self.timestep_range = percent_to_timestep_function(start), percent_to_timestep_function(end)
        if self.previous_controlnet is not None:
            self.previous_controlnet.pre_run(model, percent_to_timestep_function)

    def cleanup(self) -> None:
        """Give up what was kept for a run."""
        self._forget_run()
        if self.previous_controlnet is not None:
            self.previous_controlnet.cleanup()

    def _forget_run(self) -> None:
        self.cond_hint = None
        self.timestep_range = None

    def get_models(self) -> list[Any]:
        """The ModelPatchers of this control and of those before it."""
        return [] if self.previous_controlnet is None else self.previous_controlnet.get_models()

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        """Bytes that the chain computes with, besides weights and what the main model needs anyway."""
        previous = self.previous_controlnet
        return 0 if previous is None else previous.inference_memory_requirements(dtype)

    def get_control(
        self,
        x_noisy: Tensor,
        t: Tensor,
        cond: Mapping[str, Any],
        batched_number: int,
        transformer_options: Mapping[str, Any] | None = None,
    ) -> Control | None:
        """The residuals of the chain for `x_noisy` `[B, C, h, w]` at sigmas `t` `[B]`; None where none of it acts.

        `cond` are the network's inputs for this batch, which is made of `batched_number` parts of the same size.
        """
        previous: Control | None = None
        if self.previous_controlnet is not None:
            previous = self.previous_controlnet.get_control(
                x_noisy, t, cond, batched_number, transformer_options
            )
        if self.timestep_range is not None:
            start, end = self.timestep_range
            if t[0] > start or t[0] < end:
                return previous
        return self.control_merge(self.residuals(x_noisy, t, cond, batched_number), previous)

    def residuals(self, x_noisy: Tensor, t: Tensor, cond: Mapping[str, Any], batched_number: int) -> Control:
        """What this control alone gives at full strength; arguments as for `get_control`."""
        raise NotImplementedError

    def control_merge(
        self, control: Control, control_prev: Control | None, output_dtype: torch.dtype | None = None
    ) -> Control:
        """`control` at its strength, on top of what the controls before it gave."""
        merged: Control = {}
        for kind in KINDS:
            own = control.get(kind, [])
            weighed = [self._weigh(value, len(own) - index) for index, value in enumerate(own)]
            before = [] if control_prev is None else control_prev[kind]
            length = max(len(weighed), len(before))
            merged[kind] = [
                _add(_at(before, index), _at(weighed, index), output_dtype) for index in range(length)
            ]
        return merged

    def _weigh(self, value: Tensor | None, depth: int) -> Tensor | None:
        if value is None:
            return None
        if self.global_average_pooling:
            value = value.mean(dim=(2, 3), keepdim=True).expand_as(value)
        strength = self.strength
        if self.strength_type is StrengthType.LINEAR_UP:
            strength = strength ** float(depth)
        return value if strength == 1.0 else value * strength


def _at(values: Sequence[Tensor | None], index: int) -> Tensor | None:
    return values[index] if index < len(values) else None


def _add(a: Tensor | None, b: Tensor | None, dtype: torch.dtype | None) -> Tensor | None:
    if b is None:
        return a
    b = b if dtype is None else b.to(dtype)
    return b if a is None else a + b


def fit_picture(picture: Tensor, width: int, height: int, method: str = "nearest-exact") -> Tensor:
    """`[B, C, H, W]` to `[B, C, height, width]`, cut to that aspect around the middle."""
    return resize_images(picture.movedim(1, -1), width, height, method, "center").movedim(-1, 1)


def spread_hint(hint: Tensor, batch_size: int, batched_number: int) -> Tensor:
    """Hints `[B', ...]` for a batch of `batched_number` parts: one serves all, several go to the items of each part.

    Of more hints than items the first ones are taken; fewer are begun again from the first.
    """
    if hint.shape[0] == 1:
        return hint
    hint = repeat_to_batch(hint, batch_size // batched_number)
    return hint if hint.shape[0] == batch_size else repeat_to_batch(hint, batch_size)
