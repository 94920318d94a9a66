"""The T2I-Adapters (Mou et al. 2023, arXiv:2302.08453): small networks that turn a picture into features of four sizes.

Built from their weights, which are named as in the original files; a level is what one feature comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from comfyk_core_nodes.weights.layers import Conv2d
from comfyk_core_nodes.weights.state_dict import count_blocks, with_prefix

LEVELS = 4
_SDXL_CHANNELS = (256, 768)
"""Channels behind the unshuffling by 16 that adapters for SDXL have: of a grey picture, and of one in colour."""


class AdapterNetwork(nn.Module):
    """A full or a light adapter. `forward` gives the features of the levels, finest first."""

    def __init__(self, state: Mapping[str, Tensor], device: Any = None) -> None:
        super().__init__()
        self.light = "body.0.out_conv.weight" in state
        first = "body.0.in_conv" if self.light else "conv_in"
        channels = state[f"{first}.weight"].shape[1]
        self.xl = not self.light and channels in _SDXL_CHANNELS
        self.unshuffle_amount = 16 if self.xl else 8
        self.input_channels = channels // self.unshuffle_amount**2
        self.conv_in = None if self.light else _conv(state, "conv_in", device)
        blocks = count_blocks(state, "body.{}.")
        self.blocks_per_level, rest = divmod(blocks, LEVELS)
        if rest or not blocks or not self.input_channels:
            raise ValueError(
                f"it has {blocks} blocks and {channels} channels, which are not those of an adapter"
            )
        halving = {2} if self.xl else {1, 2, 3}
        kind = Extractor if self.light else ResnetBlock
        self.body = nn.ModuleList(
            kind(
                with_prefix(state, f"body.{number}."),
                number % self.blocks_per_level == 0 and number // self.blocks_per_level in halving,
                device,
            )
            for number in range(blocks)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """`x` is `[B, C, H, W]`, its sides multiples of `unshuffle_amount`."""
        x = F.pixel_unshuffle(x, self.unshuffle_amount)
        if self.conv_in is not None:
            x = self.conv_in(x)
        features = []
        for number, block in enumerate(self.body, 1):
            x = block(x)
            if number % self.blocks_per_level == 0:
                features.append(x)
        return features


class ResnetBlock(nn.Module):
    """A block of the full adapter: halved first if `down`, then brought to other channels if it has `in_conv`."""

    def __init__(self, state: Mapping[str, Tensor], down: bool, device: Any = None) -> None:
        super().__init__()
        self.down = down
        self.down_opt = nn.ModuleDict()
        if "down_opt.op.weight" in state:
            self.down_opt["op"] = _conv(state, "down_opt.op", device, stride=2)
        self.in_conv = _conv(state, "in_conv", device) if "in_conv.weight" in state else None
        self.block1 = _conv(state, "block1", device)
        self.block2 = _conv(state, "block2", device)
        self.skep = _conv(state, "skep", device) if "skep.weight" in state else None

    def forward(self, x: Tensor) -> Tensor:
        if self.down:
            x = self.down_opt["op"](x) if "op" in self.down_opt else _halve(x)
        if self.in_conv is not None:
            x = self.in_conv(x)
        h = self.block2(F.relu(self.block1(x)))
        return h + (x if self.skep is None else self.skep(x))


class LightBlock(nn.Module):
    def __init__(self, state: Mapping[str, Tensor], device: Any = None) -> None:
        super().__init__()
        self.block1 = _conv(state, "block1", device)
        self.block2 = _conv(state, "block2", device)

    def forward(self, x: Tensor) -> Tensor:
        return self.block2(F.relu(self.block1(x))) + x


class Extractor(nn.Module):
    """A level of the light adapter: its blocks work on a quarter of the channels."""

    def __init__(self, state: Mapping[str, Tensor], down: bool, device: Any = None) -> None:
        super().__init__()
        self.down = down
        self.in_conv = _conv(state, "in_conv", device)
        self.body = nn.Sequential(
            *(
                LightBlock(with_prefix(state, f"body.{number}."), device)
                for number in range(count_blocks(state, "body.{}."))
            )
        )
        self.out_conv = _conv(state, "out_conv", device)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_conv(_halve(x) if self.down else x)
        return self.out_conv(self.body(x))


def _conv(state: Mapping[str, Tensor], name: str, device: Any, stride: int = 1) -> Conv2d:
    """A convolution as large as the weight `name` in `state`, which keeps the size but for its stride."""
    out, channels, size, _ = state[f"{name}.weight"].shape
    return Conv2d(channels, out, size, stride, size // 2, f"{name}.bias" in state, device)


def _halve(x: Tensor) -> Tensor:
    """The average of 2x2 pixels; odd sides get a line of zeros at both ends."""
    return F.avg_pool2d(x, 2, padding=[x.shape[2] % 2, x.shape[3] % 2])
