"""Real-ESRGAN's small network, SRVGGNetCompact (`realesr-general-x4v3`, `realesr-animevideov3`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comfyk_core_nodes.weights.layers import Conv2d
from comfyk_core_nodes.weights.state_dict import count_blocks


class PReLU(nn.Module):
    """What is below 0 is multiplied by a slope for each channel (He et al. 2015, arXiv:1502.01852)."""

    def __init__(self, channels: int, device: Any = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, device=device), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.weight.to(x))


class CompactNet(nn.Module):
    """A row of convolutions; what they give is spread over the pixels and added to the enlarged picture."""

    def __init__(self, state: Mapping[str, Tensor], device: Any = None) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number in range(count_blocks(state, "body.{}.")):
            weight = state[f"body.{number}.weight"]
            if weight.ndim == 1:
                layers.append(PReLU(weight.shape[0], device))
            else:
                layers.append(Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, device=device))
        self.body = nn.Sequential(*layers)
        self.input_channels = self.output_channels = state["body.0.weight"].shape[1]
        last = state[f"body.{len(layers) - 1}.weight"].shape[0]
        self.scale = math.isqrt(last // self.input_channels)
        if self.scale**2 * self.input_channels != last:
            raise ValueError(f"its last layer has {last} channels, which are no square of pixels")

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W] -> [B, C, H * scale, W * scale]`."""
        return F.pixel_shuffle(self.body(x), self.scale) + F.interpolate(
            x, scale_factor=self.scale, mode="nearest"
        )


def is_compact(state: Mapping[str, Tensor]) -> bool:
    """Convolutions and slopes by turns, and nothing else."""
    first, second = state.get("body.0.weight"), state.get("body.1.weight")
    return (
        all(key.startswith("body.") for key in state)
        and first is not None
        and first.ndim == 4
        and second is not None
        and second.ndim == 1
    )
