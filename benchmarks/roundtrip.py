"""One small prompt at a time: from sending it until the client sees its end."""

from __future__ import annotations

from statistics import median

from benchmarks.client import Seen, warm_server
from benchmarks.figures import Figure
from benchmarks.packs import chain

_PER_RUN = 60
_UNSEEN = 1000
"""Values from here on were not used to warm the server up."""


async def measure(runs: int) -> list[Figure]:
    """Each run is the median of some prompts; uncached ones differ in the constant of the first node."""
    uncached: list[list[Seen]] = []
    cached: list[list[Seen]] = []
    async with warm_server() as (_, client):
        for run in range(runs):
            first = _UNSEEN + run * _PER_RUN
            uncached.append([await client.run(chain(3, value)) for value in range(first, first + _PER_RUN)])
            same = chain(3, first + _PER_RUN - 1)
            cached.append([await client.run(same) for _ in range(_PER_RUN)])
    return [
        figure
        for name, seen in (("uncached", uncached), ("cached", cached))
        for figure in _figures(name, seen)
    ]


def _figures(name: str, runs: list[list[Seen]]) -> list[Figure]:
    what = f"prompt round trip, 3 nodes, {name}"
    return [
        Figure(f"roundtrip_{name}", what, "ms", [median(seen.ended for seen in run) for run in runs]),
        Figure(
            f"roundtrip_{name}_success",
            f"{what}: until execution_success",
            "ms",
            [median(seen.success for seen in run) for run in runs],
        ),
        Figure(
            f"roundtrip_{name}_acknowledged",
            f"{what}: until acknowledged",
            "ms",
            [median(seen.acknowledged for seen in run) for run in runs],
        ),
    ]
