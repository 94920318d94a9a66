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
    count, padding = await _filler()
    figures: list[Figure] = []
    async with warm_server({"bench_typed": typed(count, padding)}) as (_, client):
        _, body, headers = await client.get("/object_info")
        known = {"If-None-Match": headers["ETag"]}
        for name, what, asked in (
            ("object_info", f"GET /object_info ({_size(body)})", {}),
            ("object_info_304", "the same, 304 by ETag", known),
            ("object_info_gzip", "the same, gzip, unpacked by the client", {"Accept-Encoding": "gzip"}),
        ):
            figures.append(Figure(name, what, "ms", await _times(client, runs, asked)))
    async with warm_server({"bench_typed": typed(count, padding, options="list")}) as (_, client):
        what = f"the same, {count} of them with choices that may change"
        figures.append(Figure("object_info_live", what, "ms", await _times(client, runs, {})))
    return figures


def _size(body: bytes) -> str:
    return f"{len(json.loads(body))} nodes, {len(body) / 1000:.0f} kB"


async def _times(client: Client, runs: int, headers: dict[str, str]) -> list[float]:
    return [
        median([await client.timed_get("/object_info", headers) for _ in range(_PER_RUN)])
        for _ in range(runs)
    ]


async def _filler() -> tuple[int, int]:
    """How many nodes fill a server up, and their padding: look at what it has, and at what one of them adds."""
    async with warm_server({"bench_typed": typed(1, 0)}) as (_, client):
        _, body, _ = await client.get("/object_info")
    info = json.loads(body)
    one = len(json.dumps(info["BenchTyped0000"], separators=(",", ":"))) + len('"BenchTyped0000":,')
    count = NODES - (len(info) - 1)
    return count, max(0, round((BYTES - (len(body) - one)) / count) - one)
