"""What is done to masks: growing, feathering, combining."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfyk import check_interrupted

if TYPE_CHECKING:
    from torch import Tensor

OPERATIONS = ("multiply", "add", "subtract", "and", "or", "xor")


def as_masks(mask: Tensor) -> Tensor:
    """`[B, H, W]`, whatever stands in front of the last two dimensions."""
    return mask.reshape(-1, *mask.shape[-2:])


def grow_mask(mask: Tensor, pixels: int, tapered_corners: bool) -> Tensor:
    """Grey-scale dilation of `[B, H, W]` by a number of pixels, erosion when it is negative.

    What grows out of one pixel is a square, or a diamond with `tapered_corners`. Beyond the edges is nothing that
    would grow or eat its way in.
    """
    if pixels < 0:
        return -grow_mask(-mask, -pixels, tapered_corners)
    if not tapered_corners:
        return _largest_in(_largest_in(mask, 0, pixels), pixels, 0)
    for _ in range(min(pixels, sum(mask.shape[-2:]))):
        check_interrupted()
        grown = _largest_in(mask, 1, 0).maximum(_largest_in(mask, 0, 1))
        if grown.equal(mask):
            break
        mask = grown
    return mask.clone()


def _largest_in(mask: Tensor, down: int, across: int) -> Tensor:
    """The maximum over so many pixels to each side."""
    import torch

    # A window that reaches beyond all edges sees no more.
    height, width = mask.shape[-2:]
    down, across = min(down, height - 1), min(across, width - 1)
    return torch.nn.functional.max_pool2d(
        mask.unsqueeze(1), (2 * down + 1, 2 * across + 1), stride=1, padding=(down, across)
    ).squeeze(1)


def feather_mask(mask: Tensor, left: int, top: int, right: int, bottom: int) -> Tensor:
    """Fade `[B, H, W]` towards its edges: the n-th of `f` pixels from an edge is multiplied by `n / f`."""
    height, width = mask.shape[-2:]
    for rate in (_ramp(width, left), _ramp(width, right).flip(0)):
        mask = mask * rate.to(mask)
    for rate in (_ramp(height, top), _ramp(height, bottom).flip(0)):
        mask = mask * rate[:, None].to(mask)
    return mask


def _ramp(length: int, pixels: int) -> Tensor:
    import torch

    rate = torch.ones(length, dtype=torch.float64)
    pixels = min(pixels, length)
    if pixels:
        rate[:pixels] = torch.arange(1, pixels + 1, dtype=torch.float64) / pixels
    return rate


def combine_masks(destination: Tensor, source: Tensor, x: int, y: int, operation: str) -> Tensor:
    """Combine `source` with what of `destination` (both `[B, H, W]`) it covers when it lies at `x`, `y`.

    `operation` is one of OPERATIONS; the logical ones round first. The result is cut to 0..1.
    """
    from comfyk_core_nodes.images.batch import repeat_to_batch

    result = destination.clone()
    source = repeat_to_batch(source, destination.shape[0])
    below = result[:, y : y + source.shape[1], x : x + source.shape[2]]
    above = source[:, : below.shape[1], : below.shape[2]].to(below.device)
    if operation == "multiply":
        combined = below * above
    elif operation == "add":
        combined = below + above
    elif operation == "subtract":
        combined = below - above
    else:
        one, other = below.round().bool(), above.round().bool()
        combined = {"and": one & other, "or": one | other, "xor": one ^ other}[operation]
    below.copy_(combined)
    return result.clamp_(0.0, 1.0)
