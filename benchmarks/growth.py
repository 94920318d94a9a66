"""How the cost grows with the nodes of a graph, with the jobs that wait, and with the jobs in the history."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from benchmarks.client import Client, warm_server
from benchmarks.figures import Curve
from benchmarks.packs import Prompt, chain, wide

SIZES = (10, 100, 1_000, 10_000)
_UNSEEN = 1_000_000
_MOST_RUNS = 5
_REQUESTS = 10


async def measure(runs: int) -> list[Curve]:
    """At most five runs of each size."""
    runs = min(runs, _MOST_RUNS)
    return [
        *await _graph("chain", chain, runs),
        *await _graph("wide", wide, runs),
        *await _queue(),
    ]


async def _graph(name: str, make: Callable[[int, int], Prompt], runs: int) -> list[Curve]:
    uncached = Curve(f"{name}_uncached", f"graph, {name}, uncached", "node")
    cached = Curve(f"{name}_cached", f"graph, {name}, cached", "node")
    async with warm_server() as (_, client):
        for size in SIZES:
            await client.run(make(size, 0))
            for value in range(_UNSEEN, _UNSEEN + runs):
                for curve in (uncached, cached):
                    seen = await client.run(make(size, value))
                    curve.samples.setdefault(size, []).append(seen.ended)
    return [uncached, cached]


async def _queue() -> list[Curve]:
    """Queue jobs while the server pauses, let them run, look at the history: on a new server for each size."""
    fill = Curve("queue_fill", "queue: post so many jobs", "job")
    post = Curve("queue_post", "queue: post one more", "pending")
    show = Curve("queue_get", "queue: GET /queue", "pending")
    delete = Curve("queue_delete", "queue: delete one", "pending")
    drain = Curve("queue_drain", "queue: run them all", "job")
    whole = Curve("history_get", "history: GET /history", "entry")
    page = Curve("history_page", "history: GET /history?max_items=64", "entry")
    entry = Curve("history_entry", "history: GET /history/{id}", "entry")
    jobs = Curve("jobs_page", "history: GET /jobs?limit=64", "entry")
    run = Curve("history_run", "history: run one more job", "entry")
    for size in SIZES:
        async with warm_server() as (_, client):
            await client.post("/history", {"clear": True})
            await client.post("/queue", {"pause": True})
            start = time.perf_counter()
            ids = await asyncio.gather(*(client.submit(chain(3, _UNSEEN + number)) for number in range(size)))
            fill.samples[size] = [_since(start)]
            extra = [await _timed_submit(client, number) for number in range(_REQUESTS)]
            post.samples[size] = [ms for _, ms in extra]
            show.samples[size] = [await client.timed_get("/queue") for _ in range(_REQUESTS)]
            delete.samples[size] = [await _timed_delete(client, job_id) for job_id, _ in extra]
            start = time.perf_counter()
            end = asyncio.create_task(client.see_end(size))
            await client.post("/queue", {"resume": True})
            await end
            drain.samples[size] = [_since(start)]
            for curve, path in (
                (whole, "/history"),
                (page, "/history?max_items=64"),
                (entry, f"/history/{ids[size // 2]}"),
                (jobs, "/jobs?limit=64"),
            ):
                curve.samples[size] = [await client.timed_get(path) for _ in range(_REQUESTS)]
            run.samples[size] = [
                (await client.run(chain(3, number))).ended for number in range(100, 100 + _REQUESTS)
            ]
    return [fill, post, show, delete, drain, whole, page, entry, jobs, run]


async def _timed_submit(client: Client, number: int) -> tuple[str, float]:
    start = time.perf_counter()
    return await client.submit(chain(3, number)), _since(start)


async def _timed_delete(client: Client, job_id: str) -> float:
    start = time.perf_counter()
    await client.post("/queue", {"delete": [job_id]})
    return _since(start)


def _since(start: float) -> float:
    return (time.perf_counter() - start) * 1000
