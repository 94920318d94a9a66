"""Asking for the history of some hundred jobs."""

from __future__ import annotations

from statistics import median

from benchmarks.client import warm_server
from benchmarks.figures import Figure
from benchmarks.packs import chain

JOBS = 390
_PER_RUN = 20


async def measure(runs: int) -> list[Figure]:
    """Each run is the median of some requests."""
    async with warm_server() as (_, client):
        await client.post("/history", {"clear": True})
        for value in range(JOBS):
            await client.run(chain(3, value))
        _, body, _ = await client.get("/history")
        times = [median([await client.timed_get("/history") for _ in range(_PER_RUN)]) for _ in range(runs)]
    return [
        Figure("history", f"history of {JOBS} jobs, GET /history ({len(body) / 1000:.0f} kB)", "ms", times)
    ]
