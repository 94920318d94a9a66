"""Rounding to fp8 up or down by chance, so that patches smaller than a step of fp8 are not lost on average."""

from __future__ import annotations

import torch
from torch import Tensor

_LAYOUT = {torch.float8_e4m3fn: (3, 7, 15), torch.float8_e5m2: (2, 15, 31)}
"""dtype -> bits of the mantissa, bias of the exponent, largest exponent field."""

_CHANCES = 256
"""How finely the odds are told apart: as finely as ComfyUI does, so that the same seed rounds the same way."""


def stochastic_rounding(value: Tensor, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """`value` in `dtype`. For fp8 each element goes to one of its two neighbours, with odds by its distance to them.

    The same seed gives the same result on the same kind of device. Other dtypes are rounded to nearest.
    """
    if dtype not in _LAYOUT:
        return value.to(dtype)
    generator = torch.Generator(device=value.device).manual_seed(seed)
    chances = torch.randint(
        0, _CHANCES, value.shape, dtype=torch.uint8, device=value.device, generator=generator
    )
    return _round(value, dtype, chances).to(dtype)


def _round(value: Tensor, dtype: torch.dtype, chances: Tensor) -> Tensor:
    mantissa_bits, bias, largest = _LAYOUT[dtype]
    value = value.half()
    size = value.abs()
    exponent = (size.log2().floor() + bias).clamp(0, largest)
    subnormal = exponent == 0
    # Below the smallest normal number the steps no longer shrink, and there is no leading one.
    power = torch.where(subnormal, 1 - bias, exponent - bias).exp2()
    leading = torch.where(subnormal, 0.0, 1.0).to(value.dtype)
    steps = (size / power - leading) * 2**mantissa_bits
    # Both are exact in half precision: what fp8 holds already stays what it is.
    chance = chances.to(steps.dtype) / _CHANCES
    rounded = value.sign() * power * (leading + (steps + chance).floor() / 2**mantissa_bits)
    limit = torch.finfo(dtype).max
    return rounded.clamp(-limit, limit)
