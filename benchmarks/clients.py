"""What WebSocket clients cost a job that sends much: 1,000 steps, each with a preview, to one client and to 200.

Half of the 200 never read.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.client import connected
from benchmarks.figures import Figure
from benchmarks.packs import Prompt
from benchmarks.server import serving

CLIENTS = 200
STEPS = 1000
_CROWD = Path(__file__).parents[1] / "tests" / "http" / "crowd.py"
_PACK = """\
import time

import comfyk
from comfyk.events import PreviewImage

PREVIEW = PreviewImage(b"x" * 60_000, "JPEG")


class BenchSteps:
    CATEGORY = "bench"
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"steps": ("INT", {"max": 100_000}), "number": ("INT", {"max": 2**31})}}

    def run(self, steps, number):
        for step in range(steps):
            time.sleep(0.0005)
            comfyk.progress(step + 1, steps, PREVIEW)
        return {"ui": {"text": [str(number)]}}


NODE_CLASS_MAPPINGS = {"BenchSteps": BenchSteps}
"""


async def measure(runs: int) -> list[Figure]:
    """The job's time with one client and with all, and by how much the server's memory grew with them."""
    async with serving({"bench_steps": _PACK}) as server, connected(server) as client:
        jobs = iter(range(1, 1_000_000))

        async def seconds() -> float:
            return (await client.run(_prompt(next(jobs)))).ended / 1000

        await seconds()  # imports torch
        alone = [await seconds() for _ in range(runs)]
        before = server.memory_mb()
        async with _crowd(server.url):
            among = [await seconds() for _ in range(runs)]
            grown = server.memory_mb() - before
    what = f"job of {STEPS} steps with previews"
    return [
        Figure("clients_1", f"{what}, one client", "s", alone),
        Figure(f"clients_{CLIENTS}", f"{what}, {CLIENTS} clients, half asleep", "s", among),
        Figure("clients_memory", "memory that the server grew by with them", "MB", [grown]),
    ]


def _prompt(number: int) -> Prompt:
    return {"1": {"class_type": "BenchSteps", "inputs": {"steps": STEPS, "number": number}}}


@asynccontextmanager
async def _crowd(url: str) -> AsyncIterator[None]:
    """All the clients, in a process of their own."""
    address = urlsplit(url)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(_CROWD), str(address.hostname), str(address.port), str(CLIENTS)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        await process.stdout.readline()  # they are connected
        yield
    finally:
        process.kill()
        await process.wait()
