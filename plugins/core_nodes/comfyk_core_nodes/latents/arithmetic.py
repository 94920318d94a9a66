"""Adding, mixing and joining two latents, of different sizes if need be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfyk_core_nodes.images.resize import resize

if TYPE_CHECKING:
    from torch import Tensor

AXES = {"x": -1, "y": -2, "t": -3}
"""Dimensions by the names that nodes give them; `t`, the frames, is the channels where there are no frames."""


def match_size(latent: Tensor, target: Tensor, method: str = "bilinear") -> Tensor:
    """`latent` scaled and cut around its middle to the `h` and `w` of `target`.

    Raises ValueError when channels or frames differ too, unless there is one of them.
    """
    for ours, theirs in zip(latent.shape[1:-2], target.shape[1:-2], strict=False):
        if ours != theirs and 1 not in (ours, theirs):
            raise _do_not_fit(latent, target)
    if latent.ndim != target.ndim:
        raise _do_not_fit(latent, target)
    if latent.shape[-2:] == target.shape[-2:]:
        return latent
    return resize(latent, target.shape[-1], target.shape[-2], method, "center")


def match_size_and_batch(latent: Tensor, target: Tensor) -> Tensor:
    """As `match_size`, with as many items as `target`: the first ones, or all over and over."""
    from comfyk_core_nodes.images.batch import repeat_to_batch

    return repeat_to_batch(match_size(latent, target), target.shape[0])


def _do_not_fit(latent: Tensor, target: Tensor) -> ValueError:
    return ValueError(
        f"latents of the shapes {list(target.shape)} and {list(latent.shape)} cannot be put together: they have "
        "different numbers of channels or frames, as latents of different kinds of models do"
    )


def interpolate(first: Tensor, second: Tensor, ratio: float) -> Tensor:
    """`ratio` of `first` and the rest of `second`, of one shape: directions and lengths are mixed apart.

    The vectors of channels are mixed as unit vectors, and the result gets the mixed length, so that it is no
    weaker than the two.
    """
    import torch

    def parts(latent: Tensor) -> tuple[Tensor, Tensor]:
        length = torch.linalg.vector_norm(latent, dim=1, keepdim=True)
        return torch.nan_to_num(latent / length), length

    (direction1, length1), (direction2, length2) = parts(first), parts(second)
    direction, _ = parts(direction1 * ratio + direction2 * (1.0 - ratio))
    return direction * (length1 * ratio + length2 * (1.0 - ratio))


def blend(first: Tensor, second: Tensor, share: float) -> Tensor:
    """`share` of `first` and the rest of `second`, which is scaled to the size of the first."""
    return first * share + match_size(second, first, "bicubic") * (1 - share)


def concatenate(first: Tensor, second: Tensor, axis: str) -> Tensor:
    """Put `second` behind `first` along one of AXES, in front of it for `-x`, `-y` or `-t`."""
    import torch

    from comfyk_core_nodes.images.batch import repeat_to_batch

    second = repeat_to_batch(second, first.shape[0])
    parts = (second, first) if axis.startswith("-") else (first, second)
    dim = AXES[axis.removeprefix("-")]
    try:
        return torch.cat(parts, dim=dim)
    except RuntimeError as error:
        raise ValueError(
            f"latents of the shapes {list(first.shape)} and {list(second.shape)} cannot be joined along "
            f"{axis.removeprefix('-')}: they differ in another dimension"
        ) from error


def cut(latent: Tensor, axis: str, index: int, amount: int) -> Tensor:
    """`amount` slices from `index` on along one of AXES; a negative index counts from the end.

    An index beyond the ends means the last or the first slice, and there are no more slices than up to the end.
    """
    dim = AXES[axis]
    size = latent.shape[dim]
    start = min(index, size - 1) if index >= 0 else max(index + size, 0)
    return latent.narrow(dim, start, min(amount, size - start))


def cut_to_batch(latent: Tensor, axis: str, slice_size: int) -> Tensor:
    """Make batch items of slices along one of AXES, `slice_size` thick; what remains at the end is left out.

    The items of the batch follow each other, the slices of each in order. Without a dimension of frames, `t`
    changes nothing.
    """
    dim = latent.ndim + AXES[axis]
    if dim < 2:
        return latent
    slice_size = min(slice_size, latent.shape[dim])
    count = latent.shape[dim] // slice_size
    kept = latent.narrow(dim, 0, count * slice_size)
    return kept.unflatten(dim, (count, slice_size)).movedim(dim, 1).flatten(0, 1)


def feathered_composite(destination: Tensor, source: Tensor, x: int, y: int, feather: int) -> Tensor:
    """`destination` with `source` over it (`[B, C, ..., h, w]`), its top left at `x`, `y`, in latent pixels.

    The n-th of `feather` lines from an edge of the source shows `n / feather` of it, at edges that are not edges
    of the destination.
    """
    import torch

    from comfyk_core_nodes.images.batch import repeat_to_batch

    height, width = destination.shape[-2:]
    result = destination.clone()
    below = result[..., y : y + source.shape[-2], x : x + source.shape[-1]]
    rows, columns = below.shape[-2:]
    above = repeat_to_batch(source, destination.shape[0])[..., :rows, :columns].to(below.device)

    def fade(length: int, at_start: bool, at_end: bool) -> Tensor:
        ramp = ((torch.arange(length, device=below.device) + 1) / max(feather, 1)).clamp_max(1.0)
        one = torch.ones_like(ramp)
        return (ramp if at_start else one) * (ramp.flip(0) if at_end else one)

    if feather > 0:
        down = fade(rows, y != 0, y + rows < height)
        across = fade(columns, x != 0, x + columns < width)
        share = (down[:, None] * across).to(above.dtype)
        above = above * share + below * (1 - share)
    below.copy_(above)
    return result
