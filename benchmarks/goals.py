"""The numbers to reach, and what ComfyUI 0.33 takes for the same.

ComfyUI was measured on 2 cores without a GPU, with torch 2.13.0. Where its times spread, both ends are given.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Goal:
    """What one figure is held against."""

    comfyui: str
    """What ComfyUI takes, as text."""
    limit: float
    """In the figure's unit."""
    at_least: bool = False
    """The limit is to be exceeded, not to be stayed under."""

    def met(self, value: float) -> bool:
        return value > self.limit if self.at_least else value < self.limit


GOALS = {
    "start": Goal("8.9 s", 0.9),
    "memory": Goal("633 MB", 120),
    "object_info": Goal("99 to 126 ms", 4),
    "object_info_304": Goal("sends it again", 4),
    "roundtrip_uncached": Goal("5.3 to 8.6 ms", 2.6),
    "roundtrip_cached": Goal("2.8 to 4.6 ms", 1.4),
    "chain_500_uncached": Goal("5.0 s", 0.05),
    "chain_500_cached": Goal("4.1 s", 0.02),
    "chain_10000": Goal("refuses", 1),
    "throughput": Goal("121 /s", 500, at_least=True),
    "history": Goal("24 ms", 10),
    "http_memory_1gb": Goal("", 64),
    "checkpoint_step": Goal("3.8 to 4.3 s", 3.0),
    "checkpoint_load": Goal("7.8 s", 2.5),
    "checkpoint_memory": Goal("6700 MB", 5000),
    "sampler_overhead_euler": Goal("not measured", 2),
    "sampler_overhead_dpmpp_2m_sde": Goal("not measured", 2),
}
"""By the name of the figure."""
