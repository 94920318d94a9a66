"""A T2I-Adapter as nodes and samplers hold it: it looks at the hint alone, once for a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from comfyk_core_nodes.control.adapter import AdapterNetwork
from comfyk_core_nodes.control.base import ControlBase, fit_picture, spread_hint
from comfyk_core_nodes.families.sd.unet import Control

_PLACES: tuple[int, ...] = (2, 5, 8, 11)
"""The blocks on the UNet's way down that the features of the four levels are added to."""
_SDXL_PLACES: tuple[int, ...] = (3, 5, 8)
"""The same for SDXL; its last feature is for the middle."""


class T2IAdapter(ControlBase):
    """Copies share the network. Its weights are cast as they are used: it runs once in a run."""

    def __init__(self, t2i_model: AdapterNetwork) -> None:
        super().__init__()
        self.t2i_model = t2i_model
        self.channels_in = t2i_model.input_channels
        self.control_input: Control | None = None

    def _forget_run(self) -> None:
        super()._forget_run()
        self.control_input = None

    def scale_image_to(self, width: int, height: int) -> tuple[int, int]:
        """The next size in pixels that the network can take."""
        step = self.t2i_model.unshuffle_amount
        return math.ceil(width / step) * step, math.ceil(height / step) * step

    def residuals(self, x_noisy: Tensor, t: Tensor, cond: Mapping[str, Any], batched_number: int) -> Control:
        height, width = (size * self.compression_ratio for size in x_noisy.shape[-2:])
        width, height = self.scale_image_to(width, height)
        if (
            self.control_input is None
            or self.cond_hint is None
            or self.cond_hint.shape[-2:] != (height, width)
        ):
            self.cond_hint = self._make_hint(width, height).to(x_noisy)
            self.control_input = self._place(self.t2i_model(self.cond_hint))
        return {
            kind: [
                value if value is None else spread_hint(value, x_noisy.shape[0], batched_number)
                for value in values
            ]
            for kind, values in self.control_input.items()
        }

    def _make_hint(self, width: int, height: int) -> Tensor:
        assert self.cond_hint_original is not None, "set_cond_hint comes first"
        hint = fit_picture(self.cond_hint_original, width, height, self.upscale_algorithm)
        if self.channels_in == 1:
            return hint.mean(dim=1, keepdim=True)
        return hint[:, : self.channels_in]

    def _place(self, features: list[Tensor]) -> Control:
        """The features in the lists that the UNet uses up from their ends."""
        places = _SDXL_PLACES if self.t2i_model.xl else _PLACES
        by_block = dict(zip(places, features, strict=False))
        going_down = [by_block.get(block) for block in range(places[-1] + 1)]
        middle: list[Tensor | None] = list(features[len(places) :])
        return {"input": going_down[::-1], "middle": middle, "output": []}
