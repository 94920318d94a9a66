"""Which part of a picture a conditioning is for: areas, masks, timestep ranges.

An area has the sizes of the latent's dimensions, then their offsets, in latent units: `(H, W, y, x)`. Conditionings are
dicts here: the options that nodes set, with `model_conds`, the values that the model is given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from comfyk_core_nodes.images.batch import repeat_to_batch
from comfyk_core_nodes.sampling.conds import CONDRegular, cut_area

Cond = dict[str, Any]

_ALL = 2**31 - 1
_MINIMUM = 8
"""Least height and width of the area around a mask."""
_FEATHER = 8
"""So far from its edges inside the picture an area fades in."""


@dataclass(slots=True, eq=False)
class Part:
    """What the model computes for one conditioning at one level."""

    input_x: Tensor
    """The noisy latent within the area."""
    mult: Tensor
    """The weight of the result at each place, in the shape of `input_x`."""
    conditioning: dict[str, CONDRegular]
    area: list[int] | None
    control: Any | None
    patches: dict[str, list[Any]] | None
    uuid: Any


def fit_area(area: Sequence[int], dims: int) -> list[int]:
    """`area` for a latent of `dims` dimensions: missing ones are put in front, in full; extra ones are dropped."""
    half = len(area) // 2
    missing = max(0, dims - half)
    sizes = [_ALL] * missing + list(area[:half])
    offsets = [0] * missing + list(area[half:])
    return sizes[:dims] + offsets[:dims]


def resolve_areas(conds: Sequence[Cond], dims: Sequence[int], device: torch.device) -> list[Cond]:
    """Turn percentages into latent units, and bring masks to the latent's size, once before a run.

    `dims` are the latent's sizes after batch and channels.
    """
    return [_resolve(cond, tuple(dims), device) for cond in conds]


def _resolve(cond: Cond, dims: tuple[int, ...], device: torch.device) -> Cond:
    cond = dict(cond)
    area = cond.get("area")
    if area is not None and area[0] == "percentage":
        shares = area[1:]
        offset = len(shares) // 2
        sizes = [max(1, round(share * size)) for share, size in zip(shares, dims, strict=False)]
        offsets = [round(share * size) for share, size in zip(shares[offset:], dims, strict=False)]
        cond["area"] = (*sizes, *offsets)
    if cond.get("mask") is not None:
        cond["mask"] = mask = _fit_mask(cond["mask"].to(device), dims)
        if cond.get("set_area_to_bounds", False):
            cond["area"] = mask_bounds(mask)
    return cond


def _fit_mask(mask: Tensor, dims: tuple[int, ...]) -> Tensor:
    """`[B, H, W]` of any size, or with a dimension less, to `[B, *dims]`."""
    if mask.ndim == len(dims):
        mask = mask.unsqueeze(0)
    if tuple(mask.shape[1:]) == dims:
        return mask
    channels = mask if mask.ndim >= 4 else mask.unsqueeze(1)
    channels = torch.nn.functional.interpolate(channels, size=dims[-2:], mode="bilinear")
    return channels if mask.ndim >= 4 else channels.squeeze(1)


def mask_bounds(mask: Tensor) -> tuple[int, int, int, int]:
    """The area that holds all of `mask`, `[B, H, W]`, that is not 0; a small corner when all is."""
    used = mask.abs().amax(dim=0) > 0
    rows, columns = used.any(dim=1).nonzero(), used.any(dim=0).nonzero()
    if len(rows) == 0:
        return _MINIMUM, _MINIMUM, 0, 0
    top, left = int(rows[0]), int(columns[0])
    height, width = int(rows[-1]) - top + 1, int(columns[-1]) - left + 1
    return max(_MINIMUM, height), max(_MINIMUM, width), top, left


def add_opposite_areas(conds: dict[str, list[Cond]]) -> None:
    """Give each area of one kind of conditioning its like of the others, so that guidance compares equal pictures.

    The values come from the smallest one of the other kind around it.
    """
    for kind, entries in conds.items():
        for cond in list(entries):
            for other_kind, others in conds.items():
                if other_kind != kind and "area" in cond:
                    _add_area(others, cond)


def _add_area(conds: list[Cond], cond: Cond) -> None:
    area = cond["area"]
    around = [other for other in conds if "area" not in other or _inside(area, other["area"])]
    if not around:
        return
    smallest = min(around, key=lambda other: _volume(other["area"]) if "area" in other else math.inf)
    if smallest.get("area") != area:
        conds.append({**cond, "model_conds": dict(smallest["model_conds"])})


def _volume(area: Sequence[int]) -> int:
    return math.prod(area[: len(area) // 2])


def _inside(area: Sequence[int], other: Sequence[int]) -> bool:
    dims = max(len(area), len(other)) // 2
    inner, outer = fit_area(area, dims), fit_area(other, dims)
    return all(
        inner[dims + dim] >= outer[dims + dim]
        and inner[dim] + inner[dims + dim] <= outer[dim] + outer[dims + dim]
        for dim in range(dims)
    )


def part_of(cond: Cond, x: Tensor, timestep: Tensor) -> Part | None:
    """What to compute for a conditioning at `x`, `[B, C, ...]`; None outside of its timestep range or beside `x`."""
    sigma = timestep[0]
    if "timestep_start" in cond and sigma > cond["timestep_start"]:
        return None
    if "timestep_end" in cond and sigma < cond["timestep_end"]:
        return None
    area = None
    if cond.get("area") is not None:
        dims = x.ndim - 2
        area = fit_area(cond["area"], dims)
        for dim in range(dims):
            area[dim] = min(area[dim], x.shape[dim + 2] - area[dims + dim])
            if area[dim] <= 0:
                return None
    input_x = cut_area(x, area)
    values = {
        name: value.process_cond(batch_size=x.shape[0], area=area)
        for name, value in cond["model_conds"].items()
    }
    return Part(
        input_x=input_x,
        mult=_weight(cond, x, input_x, area),
        conditioning=values,
        area=area,
        control=cond.get("control"),
        patches=_gligen_patches(cond, input_x),
        uuid=cond.get("uuid"),
    )


def _weight(cond: Mapping[str, Any], x: Tensor, input_x: Tensor, area: list[int] | None) -> Tensor:
    strength = cond.get("strength", 1.0)
    if cond.get("mask") is not None:
        mask = cut_area(cond["mask"], area, first_dim=1) * cond.get("mask_strength", 1.0)
        mask = repeat_to_batch(mask, x.shape[0]).unsqueeze(1)
        return mask.expand(input_x.shape) * strength
    weight = torch.full_like(input_x, strength)
    if area is not None:
        dims = len(area) // 2
        for dim in range(dims):
            _feather(weight, dim + 2, area[dims + dim], x.shape[dim + 2])
    return weight


def _feather(weight: Tensor, dim: int, offset: int, full: int) -> None:
    """Fade `weight` in along `dim` at those of its ends that are inside the picture."""
    size = weight.shape[dim]
    width = min(_FEATHER, size // 4)
    if width == 0:
        return
    ramp = torch.arange(1, width + 1, device=weight.device, dtype=weight.dtype) / width
    ramp = ramp.view(-1, *[1] * (weight.ndim - dim - 1))
    if offset != 0:
        weight.narrow(dim, 0, width).mul_(ramp)
    if offset + size < full:
        weight.narrow(dim, size - width, width).mul_(ramp.flip(0))


def _gligen_patches(cond: Mapping[str, Any], input_x: Tensor) -> dict[str, list[Any]] | None:
    """GLIGEN's attention, with the boxes of this conditioning, or with none for those of the other kind."""
    if "gligen" not in cond:
        return None
    kind, patcher, boxes = cond["gligen"]
    if kind == "position":
        patch = patcher.model.set_position(input_x.shape, boxes, input_x.device)
    else:
        patch = patcher.model.set_empty(input_x.shape, input_x.device)
    return {"middle_patch": [patch]}
