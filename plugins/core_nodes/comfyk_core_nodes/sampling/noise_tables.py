"""Published tables of good noise levels: Align Your Steps, OptimalSteps and GITS, at any number of steps.

Each function gives float32 sigmas `[steps + 1]`, descending to 0; with `denoise` below 1 only the last share of
them, with 0 none. Raises KeyError for a table that is not there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from torch import Tensor


def align_your_steps(model_type: str, steps: int, denoise: float = 1.0) -> Tensor:
    """Ten steps for `SD1`, `SDXL` or `SVD`, interpolated (Sabour et al. 2024, arXiv:2404.14507)."""
    return _fit(_tables()["align_your_steps"][model_type], steps, denoise)


def optimal_steps(model_type: str, steps: int, denoise: float = 1.0) -> Tensor:
    """Ten to forty steps for `FLUX`, `Wan` or `Chroma`, interpolated (Pei et al. 2025, arXiv:2503.21774)."""
    return _fit(_tables()["optimal_steps"][model_type], steps, denoise)


def gits(coefficient: float, steps: int, denoise: float = 1.0) -> Tensor:
    """Steps chosen by the curvature of trajectories (Chen et al. 2024, arXiv:2405.11326).

    `coefficient` is 0.80, 0.85 ... 1.50. There is a table for each number of steps from 2 to 20; more steps
    interpolate the last one.
    """
    row = _tables()["gits"][f"{coefficient:.2f}"][min(steps, 20) - 2]
    return _fit([_tables()["gits_levels"][position] for position in row], steps, denoise)


@cache
def _tables() -> dict[str, Any]:
    return json.loads(
        files("comfyk_core_nodes.sampling").joinpath("noise_tables.json").read_text(encoding="utf-8")
    )


def _fit(table: Sequence[float], steps: int, denoise: float) -> Tensor:
    if denoise <= 0.0:
        return torch.empty(0)
    levels = np.asarray(table)
    if len(levels) != steps + 1:
        where = np.linspace(0, len(levels) - 1, steps + 1)
        levels = np.exp(np.interp(where, np.arange(len(levels)), np.log(levels)))
    kept = steps if denoise >= 1.0 else round(steps * denoise)
    sigmas = torch.tensor(levels[len(levels) - kept - 1 :], dtype=torch.float32)
    sigmas[-1] = 0
    return sigmas
