"""The network of ESRGAN (Wang et al. 2018, arXiv:1809.00219) and Real-ESRGAN (Wang et al. 2021, arXiv:2107.10833).

Parameters are named nearly as in Real-ESRGAN's files; `rrdb_state` brings the names of all kinds of files to these.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comfyk_core_nodes.weights.layers import Conv2d
from comfyk_core_nodes.weights.state_dict import StateDict, count_blocks

_SLOPE = 0.2
_RESIDUAL = 0.2
"""What share of a residual is added."""

_ENLARGING = re.compile(r"(?:upconv|conv_up)(\d)\.(weight|bias)")
_OLD_BLOCK = re.compile(r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.(weight|bias)")
_OLD_TRUNK = re.compile(r"model\.1\.sub\.(\d+)\.(weight|bias)")
_OLD_LAYER = re.compile(r"model\.(\d+)\.(weight|bias)")
_RENAMED = (
    (re.compile(r"RRDB_trunk\.(\d+)\.RDB(\d)\."), r"body.\1.rdb\2."),
    (re.compile(r"trunk_conv\."), "conv_body."),
    (re.compile(r"HRconv\."), "conv_hr."),
)


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees the outputs of all before it: `[B, C, H, W] -> [B, C, H, W]`."""

    def __init__(self, channels: int, growth: int, device: Any = None) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3, self.conv4 = (
            Conv2d(channels + number * growth, growth, 3, padding=1, device=device) for number in range(4)
        )
        self.conv5 = Conv2d(channels + 4 * growth, channels, 3, padding=1, device=device)

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            seen = torch.cat([seen, F.leaky_relu(layer(seen), _SLOPE, inplace=True)], dim=1)
        return x + self.conv5(seen) * _RESIDUAL


class RRDB(nn.Module):
    """Three dense blocks, and their input again."""

    def __init__(self, channels: int, growth: int, device: Any = None) -> None:
        super().__init__()
        self.rdb1 = DenseBlock(channels, growth, device)
        self.rdb2 = DenseBlock(channels, growth, device)
        self.rdb3 = DenseBlock(channels, growth, device)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.rdb3(self.rdb2(self.rdb1(x))) * _RESIDUAL


class RRDBNet(nn.Module):
    """Every size comes from `state`, whose keys are those that `rrdb_state` gives.

    A network with 4 or 16 times as many channels in front as behind is given the picture's 2x2 or 4x4 pixels as
    channels: it enlarges by 2 or not at all.
    """

    def __init__(self, state: Mapping[str, Tensor], device: Any = None) -> None:
        super().__init__()
        channels, inside = state["conv_first.weight"].shape[:2]
        self.output_channels = state["conv_last.weight"].shape[0]
        ratio = math.isqrt(inside // self.output_channels)
        self.unshuffle = ratio if ratio in (2, 4) and ratio**2 * self.output_channels == inside else 1
        self.input_channels = inside // self.unshuffle**2
        ups = count_blocks(state, "conv_ups.{}.")
        enlarged, rest = divmod(2**ups, self.unshuffle)
        if rest:
            raise ValueError(f"it would enlarge {2**ups}/{self.unshuffle} times")
        self.scale = enlarged
        growth = state["body.0.rdb1.conv1.weight"].shape[0]
        self.conv_first = Conv2d(inside, channels, 3, padding=1, device=device)
        self.body = nn.Sequential(
            *(RRDB(channels, growth, device) for _ in range(count_blocks(state, "body.{}.")))
        )
        self.conv_body = Conv2d(channels, channels, 3, padding=1, device=device)
        self.conv_ups = nn.ModuleList(
            Conv2d(channels, channels, 3, padding=1, device=device) for _ in range(ups)
        )
        self.conv_hr = Conv2d(channels, channels, 3, padding=1, device=device)
        self.conv_last = Conv2d(channels, self.output_channels, 3, padding=1, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W] -> [B, C', H * scale, W * scale]`."""
        height, width = x.shape[-2:]
        if self.unshuffle > 1:
            x = F.pixel_unshuffle(pad_to_multiple(x, 4), self.unshuffle)
        first = self.conv_first(x.contiguous(memory_format=torch.channels_last))
        x = first + self.conv_body(self.body(first))
        for layer in self.conv_ups:
            x = F.leaky_relu(layer(F.interpolate(x, scale_factor=2, mode="nearest")), _SLOPE, inplace=True)
        x = self.conv_last(F.leaky_relu(self.conv_hr(x), _SLOPE, inplace=True))
        return x[..., : height * self.scale, : width * self.scale]


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """`[B, C, H, W]` with its last rows and columns mirrored, up to a multiple of `multiple` pixels.

    Where there are too few to mirror, the last one is repeated.
    """
    height, width = x.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if bottom or right:
        mirrored_bottom, mirrored_right = min(bottom, height - 1), min(right, width - 1)
        x = F.pad(x, (0, mirrored_right, 0, mirrored_bottom), mode="reflect")
        x = F.pad(x, (0, right - mirrored_right, 0, bottom - mirrored_bottom), mode="replicate")
    return x


def rrdb_state(state: Mapping[str, Tensor]) -> StateDict | None:
    """The weights of an RRDBNet by the names used here, or None where `state` is something else.

    Known are the names of ESRGAN's first release (`model.1.sub.0.RDB1...`), of its later one, which BSRGAN shares
    (`RRDB_trunk...`), and of Real-ESRGAN.
    """
    if "model.1.sub.0.RDB1.conv1.0.weight" in state:
        # ESRGAN+ has one more convolution in its blocks, which is left to spandrel.
        return None if any(".conv1x1." in key for key in state) else _from_old_names(state)
    if "conv_first.weight" not in state:
        return None
    out: StateDict = {}
    for key, value in state.items():
        for pattern, name in _RENAMED:
            key = pattern.sub(name, key)
        if match := _ENLARGING.fullmatch(key):
            key = f"conv_ups.{int(match[1]) - 1}.{match[2]}"
        out[key] = value
    return out if "body.0.rdb1.conv1.weight" in out else None


def _from_old_names(state: Mapping[str, Tensor]) -> StateDict:
    # Behind the blocks come one convolution for each enlargement, and two more, at uneven numbers.
    tail = sorted(
        {int(match[1]) for match in map(_OLD_LAYER.fullmatch, state) if match and int(match[1]) > 1}
    )
    names = {0: "conv_first"}
    names.update({number: f"conv_ups.{place}" for place, number in enumerate(tail[:-2])})
    names.update(zip(tail[-2:], ("conv_hr", "conv_last"), strict=False))
    out: StateDict = {}
    for key, value in state.items():
        if match := _OLD_BLOCK.fullmatch(key):
            out[f"body.{match[1]}.rdb{match[2]}.conv{match[3]}.{match[4]}"] = value
        elif match := _OLD_TRUNK.fullmatch(key):
            out[f"conv_body.{match[2]}"] = value
        elif match := _OLD_LAYER.fullmatch(key):
            out[f"{names.get(int(match[1]), key)}.{match[2]}"] = value
    return out
