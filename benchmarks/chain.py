"""Long chains of nodes: from sending the prompt until the client sees its end."""

from __future__ import annotations

from benchmarks.client import warm_server
from benchmarks.figures import Figure
from benchmarks.packs import chain

_UNSEEN = 1000


async def measure(runs: int) -> list[Figure]:
    """Uncached chains differ in the constant at their beginning, so that every node runs anew."""
    times: dict[tuple[int, str], list[float]] = {}
    async with warm_server() as (_, client):
        for length in (500, 10_000):
            await client.run(chain(length, 0))
            for value in range(_UNSEEN, _UNSEEN + runs):
                for state in ("uncached", "cached"):
                    seen = await client.run(chain(length, value))
                    times.setdefault((length, state), []).append(seen.ended / 1000)
    return [
        Figure("chain_500_uncached", "chain of 500 nodes, uncached", "s", times[500, "uncached"]),
        Figure("chain_500_cached", "chain of 500 nodes, cached", "s", times[500, "cached"]),
        Figure("chain_10000", "chain of 10,000 nodes, uncached", "s", times[10_000, "uncached"]),
        Figure("chain_10000_cached", "chain of 10,000 nodes, cached", "s", times[10_000, "cached"]),
    ]
