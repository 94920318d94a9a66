"""Rounding to fp8 up or down by chance, so that patches smaller than a step of fp8 are not lost on average."""

from __future__ import annotations

import torch
from torch import Tensor

_LAYOUT = {torch.float8_e4m3fn: (3, 7, 15), torch.float8_e5m2: (2, 15, 31)}
"""dtype -> bits of the mantissa, bias of the exponent, largest exponent field."""

_SLICE = 4096 * 4096
"""Elements that are rounded at a time, to bound the memory that it takes; also how random numbers are dealt."""


def stochastic_rounding(value: Tensor, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """`value` in `dtype`. For fp8 each element goes to one of its two neighbours, with odds by its distance to them.

    The same seed gives the same result on the same kind of device. Other dtypes are rounded to nearest.
    """
    if dtype not in _LAYOUT:
        return value.to(dtype)
    generator = torch.Generator(device=value.device).manual_seed(seed)
    out = torch.empty_like(value, dtype=dtype)
    rows = max(1, round(value.shape[0] / max(1.0, value.numel() / _SLICE))) if value.dim() else 1
    for target, part in (
        zip(out.split(rows), value.split(rows), strict=True) if value.dim() else [(out, value)]
    ):
        target.copy_(_round(part, dtype, generator))
    return out


def _round(value: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    mantissa_bits, bias, largest = _LAYOUT[dtype]
    value = value.half()
    size = value.abs()
    exponent = (size.log2().floor() + bias).clamp(0, largest)
    subnormal = exponent == 0
    # Below the smallest normal number the steps no longer shrink, and there is no leading one.
    power = torch.where(subnormal, 1 - bias, exponent - bias).exp2()
    leading = torch.where(subnormal, 0.0, 1.0).to(value.dtype)
    steps = (size / power - leading) * 2**mantissa_bits
    chance = torch.rand(steps.shape, dtype=steps.dtype, device=steps.device, generator=generator)
    rounded = value.sign() * power * (leading + (steps + chance).floor() / 2**mantissa_bits)
    limit = torch.finfo(dtype).max
    return rounded.clamp(-limit, limit)
