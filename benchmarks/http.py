"""Requests per second of the routes that clients ask most, and what large files cost in memory."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp

from benchmarks.client import connected
from benchmarks.figures import Figure
from benchmarks.packs import CHEAP, PICTURE, chain, write_packs
from benchmarks.server import Server, serving_from

JOBS = 100
LARGE = 1024 * 1024 * 1024
_CLIENTS = 4
_SECONDS = 1.0
_PIECE = 1024 * 1024
_SETTINGS = "[http]\nmax_upload_size_mb = 2048\n"


async def measure(runs: int) -> list[Figure]:
    """Each run sends for a second, over four connections."""
    with tempfile.TemporaryDirectory(prefix="comfyk-bench-", ignore_cleanup_errors=True) as directory:
        base = Path(directory)
        write_packs(base, {"bench_cheap": CHEAP})
        (base / "comfyk.toml").write_text(_SETTINGS, encoding="utf-8")
        (base / "input").mkdir()
        (base / "input" / "picture.png").write_bytes(os.urandom(200_000))
        async with serving_from(base) as server:
            async with connected(server) as client:
                await client.run(
                    PICTURE
                )  # waits for torch, whose import would be in the way of what is measured
                for value in range(JOBS):
                    await client.run(chain(3, value))
            return [*await _rates(server, runs), *await _large_file(server)]


async def _rates(server: Server, runs: int) -> list[Figure]:
    picture = os.urandom(20_000)
    count = 0

    async def get(session: aiohttp.ClientSession, path: str) -> None:
        async with session.get(path) as response:
            await response.read()
            response.raise_for_status()

    async def upload(session: aiohttp.ClientSession) -> None:
        nonlocal count
        count += 1
        form = aiohttp.FormData({"overwrite": "true"})
        form.add_field("image", picture, filename=f"upload{count % 50}.png")
        async with session.post("/upload/image", data=form) as response:
            await response.read()
            response.raise_for_status()

    requests: dict[str, tuple[str, Callable[[aiohttp.ClientSession], Awaitable[None]]]] = {
        "view": ("GET /view (200 kB)", lambda session: get(session, "/view?filename=picture.png&type=input")),
        "object_info": ("GET /object_info", lambda session: get(session, "/object_info")),
        "history": (f"GET /history ({JOBS} jobs)", lambda session: get(session, "/history")),
        "upload": ("POST /upload/image (20 kB)", upload),
    }
    figures = []
    async with aiohttp.ClientSession(server.url, headers={"Accept-Encoding": "identity"}) as session:
        for name, (what, send) in requests.items():
            samples = [await _per_second(session, send) for _ in range(runs)]
            figures.append(Figure(f"http_{name}", what, "/s", samples))
    return figures


async def _per_second(
    session: aiohttp.ClientSession, send: Callable[[aiohttp.ClientSession], Awaitable[None]]
) -> float:
    sent = 0
    start = time.perf_counter()
    end = start + _SECONDS

    async def client() -> None:
        nonlocal sent
        while time.perf_counter() < end:
            await send(session)
            sent += 1

    await asyncio.gather(*(client() for _ in range(_CLIENTS)))
    return sent / (time.perf_counter() - start)


async def _large_file(server: Server) -> list[Figure]:
    """A gigabyte up and down, and by how much the server's memory grew meanwhile at most."""
    await server.answers()
    await asyncio.sleep(1)
    before = most = server.memory_mb()

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, server.memory_mb())
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(server.url, timeout=timeout) as session:
        form = aiohttp.FormData({"overwrite": "true"})
        form.add_field("image", _pieces(), filename="large.bin", content_type="application/octet-stream")
        start = time.perf_counter()
        async with session.post("/upload/image", data=form) as response:
            response.raise_for_status()
        up = time.perf_counter() - start
        start = time.perf_counter()
        async with session.get("/view?filename=large.bin&type=input") as response:
            async for _ in response.content.iter_chunked(_PIECE):
                pass
        down = time.perf_counter() - start
    watching.cancel()
    return [
        Figure("http_upload_1gb", "upload of 1 GB", "s", [up]),
        Figure("http_download_1gb", "download of 1 GB", "s", [down]),
        Figure("http_memory_1gb", "memory that the server grew by meanwhile", "MB", [most - before]),
    ]


async def _pieces() -> AsyncIterator[bytes]:
    piece = os.urandom(_PIECE)
    for _ in range(LARGE // _PIECE):
        yield piece
