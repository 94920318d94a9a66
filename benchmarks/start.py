"""From nothing to the first answer, and the memory that the server then holds."""

from __future__ import annotations

from benchmarks.client import connected
from benchmarks.figures import Figure
from benchmarks.packs import CHEAP, PICTURE
from benchmarks.server import serving


async def measure(runs: int) -> list[Figure]:
    """Start fresh processes. The first is not counted: it compiles modules and fills the disk cache."""
    seconds: list[float] = []
    cold: list[float] = []
    warm: list[float] = []
    for _ in range(runs + 1):
        async with serving({"bench_cheap": CHEAP}) as server:
            seconds.append(await server.answers())
            cold.append(server.memory_mb())
            async with connected(server) as client:
                await client.run(PICTURE)  # such a job waits for the import of torch
                warm.append(server.memory_mb())
    return [
        Figure("start", "start until GET /system_stats answers", "s", seconds[1:]),
        Figure("memory", "resident memory at the first answer", "MB", cold[1:]),
        Figure("memory_warm", "resident memory with torch imported", "MB", warm[1:]),
    ]
