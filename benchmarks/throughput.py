"""Many prompts at once: how fast they are acknowledged, and how fast all are done."""

from __future__ import annotations

import asyncio
import time

from benchmarks.client import CONNECTIONS, warm_server
from benchmarks.figures import Figure
from benchmarks.packs import chain

PROMPTS = 300
_UNSEEN = 1000


async def measure(runs: int) -> list[Figure]:
    """Post different prompts of 3 nodes over some connections, and see them all end over the WebSocket."""
    finished: list[float] = []
    acknowledged: list[float] = []
    async with warm_server() as (_, client):
        for run in range(runs + 1):
            first = _UNSEEN + run * PROMPTS
            prompts = [chain(3, value) for value in range(first, first + PROMPTS)]
            start = time.perf_counter()
            end = asyncio.create_task(client.see_end(PROMPTS))
            await asyncio.gather(*map(client.submit, prompts))
            acknowledged.append(PROMPTS / (time.perf_counter() - start))
            await end
            finished.append(PROMPTS / (time.perf_counter() - start))
    # The first run opens the connections.
    return [
        Figure("throughput", f"prompts per second, {PROMPTS} posted at once", "/s", finished[1:]),
        Figure("acknowledged", f"the same, acknowledged ({CONNECTIONS} connections)", "/s", acknowledged[1:]),
    ]
