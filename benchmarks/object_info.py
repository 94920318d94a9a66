"""`GET /object_info` with as many nodes, and as many bytes, as ComfyUI has."""

from __future__ import annotations

import json
from statistics import median

from benchmarks.client import Client, warm_server
from benchmarks.figures import Figure
from benchmarks.packs import typed

NODES = 632
BYTES = 741_000
_PER_RUN = 30


async def measure(runs: int) -> list[Figure]:
    """Whole, compressed, and not modified; each run is the median of some requests."""
    async with warm_server({"bench_typed": await _filler()}) as (_, client):
        _, body, headers = await client.get("/object_info")
        size = f"{len(json.loads(body))} nodes, {len(body) / 1000:.0f} kB"
        known = {"If-None-Match": headers["ETag"]}
        assert (await client.get("/object_info", known))[0] == 304
        return [
            Figure("object_info", f"GET /object_info ({size})", "ms", await _times(client, runs, {})),
            Figure(
                "object_info_gzip",
                "the same, gzip, unpacked by the client",
                "ms",
                await _times(client, runs, {"Accept-Encoding": "gzip"}),
            ),
            Figure("object_info_304", "the same, 304 by ETag", "ms", await _times(client, runs, known)),
        ]


async def _times(client: Client, runs: int, headers: dict[str, str]) -> list[float]:
    return [
        median([await client.timed_get("/object_info", headers) for _ in range(_PER_RUN)])
        for _ in range(runs)
    ]


async def _filler() -> str:
    """The pack that fills a server up: look at what it has, and at what one node of the pack adds."""
    async with warm_server({"bench_typed": typed(1, 0)}) as (_, client):
        _, body, _ = await client.get("/object_info")
    info = json.loads(body)
    one = len(json.dumps(info["BenchTyped0000"], separators=(",", ":"))) + len('"BenchTyped0000":,')
    count = NODES - (len(info) - 1)
    return typed(count, max(0, round((BYTES - (len(body) - one)) / count) - one))
