"""Edges by Canny's method."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from comfyk import check_interrupted

if TYPE_CHECKING:
    from torch import Tensor

_GREY = (0.299, 0.587, 0.114)
"""ITU-R BT.601 luma."""
_EPSILON = 1e-6
_NEIGHBOURS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))
"""`(down, right)` of the pixel in each direction, in steps of 45 degrees."""
_MAY_TIE = (0, 2)
"""Directions (right, down) in which the neighbour may be as steep: of two equal pixels the first is the edge."""


def canny(images: Tensor, low: float, high: float) -> Tensor:
    """Edges, 1 or 0, of `[B, H, W, C]` (grey, RGB, or RGBA, whose alpha is ignored) as `[B, H, W]`.

    Canny 1986, "A Computational Approach to Edge Detection", with the details of kornia's: a Gaussian of 5
    pixels and deviation 1 (edges mirrored), Sobel's gradient unscaled (edges repeated), thinning along the
    gradient in steps of 45 degrees, and edges steeper than `low` wherever they hang together with one steeper
    than `high`. Raises ValueError unless `low <= high`.
    """
    if low > high:
        raise ValueError(f"low_threshold is {low} and must not be above high_threshold, which is {high}")
    channels = images[..., :3].float().unbind(-1)
    grey = channels[0]
    if len(channels) == 3:
        grey = grey * _GREY[0]
        for channel, share in zip(channels[1:], _GREY[1:], strict=True):
            grey = grey.add(channel, alpha=share)
    gradient = _sobel(_blur(grey.unsqueeze(1)))
    steepness = _thin(gradient)
    return _connected(steepness > low, steepness > high).to(images.dtype)


def _blur(grey: Tensor) -> Tensor:
    import torch

    radius = 2
    # A picture that is too small to be mirrored has its edge repeated.
    mode = "reflect" if min(grey.shape[-2:]) > radius else "replicate"
    line = torch.exp(-0.5 * torch.arange(-radius, radius + 1.0, device=grey.device) ** 2)
    line = line / line.sum()
    padded = torch.nn.functional.pad(grey, (radius,) * 4, mode=mode)
    across = torch.nn.functional.conv2d(padded, line.reshape(1, 1, 1, -1))
    return torch.nn.functional.conv2d(across, line.reshape(1, 1, -1, 1))


def _sobel(grey: Tensor) -> Tensor:
    """`[B, 2, H, W]`: the slope to the right and the slope down."""
    import torch

    right = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=grey.device)
    kernels = torch.stack((right, right.T)).unsqueeze(1)
    return torch.nn.functional.conv2d(torch.nn.functional.pad(grey, (1,) * 4, mode="replicate"), kernels)


def _thin(gradient: Tensor) -> Tensor:
    """The steepness `[B, H, W]`, 0 where a neighbour up or down the slope is steeper."""
    import torch

    height, width = gradient.shape[-2:]
    right, down = torch.nn.functional.pad(gradient, (1,) * 4).unbind(1)
    padded = torch.sqrt(right * right + down * down + _EPSILON)
    steepness = padded[:, 1:-1, 1:-1]
    uphill = torch.round(torch.atan2(gradient[:, 1], gradient[:, 0]) * (4 / math.pi)).long() % 8
    is_edge = steepness > math.sqrt(_EPSILON)
    for direction, (y, x) in enumerate(_NEIGHBOURS):
        neighbour = padded[:, 1 + y : 1 + y + height, 1 + x : 1 + x + width]
        wins = steepness >= neighbour if direction in _MAY_TIE else steepness > neighbour
        # The slope goes through the pixel: each neighbour lies on it for two directions of the gradient.
        is_edge &= wins | (uphill % 4 != direction % 4)
    return steepness * is_edge


def _connected(weak: Tensor, strong: Tensor) -> Tensor:
    """What of `weak` hangs together, corners included, with something of `strong`; both `[B, H, W]` of bool."""
    import torch

    found = strong.float()
    while True:
        check_interrupted()
        around = torch.nn.functional.max_pool2d(found, 3, stride=1, padding=1)
        grown = around * weak
        if grown.equal(found):
            return found
        found = grown
