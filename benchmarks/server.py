"""A real `comfyk start` in a process of its own, on a free port, with a base directory of its own."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import psutil

from benchmarks.packs import write_packs

MB = 1_000_000
_START_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 20
_LISTENS = re.compile(rb"http://\S+")


class ServerFailed(Exception):
    """The server ended before it listened; the message is its log."""


class Server:
    """A server that listens at `url`. `started` is when the process was made, on `time.perf_counter`."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, started: float, base: Path) -> None:
        self.url = url
        self.started = started
        self.base = base
        self._process = process
        self._watched = psutil.Process(process.pid)

    def memory_mb(self) -> float:
        """What the process holds in memory now (resident set size), in MB of 1,000,000 bytes."""
        return self._watched.memory_info().rss / MB

    def peak_memory_mb(self) -> float:
        """The most that the process has held in memory, in MB; on Linux only."""
        status = Path(f"/proc/{self._watched.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / MB

    async def answers(self) -> float:
        """Seconds from the making of the process until `GET /system_stats` has been answered."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/system_stats") as response:
            await response.read()
            response.raise_for_status()
            return time.perf_counter() - self.started


@asynccontextmanager
async def serving(packs: Mapping[str, str] | None = None) -> AsyncIterator[Server]:
    """A fresh server in a temporary base directory with these node packs (name -> source)."""
    with tempfile.TemporaryDirectory(prefix="comfyk-bench-", ignore_cleanup_errors=True) as directory:
        base = Path(directory)
        write_packs(base, packs or {})
        async with serving_from(base) as server:
            yield server


@asynccontextmanager
async def serving_from(base: Path) -> AsyncIterator[Server]:
    """A server on a base directory that is there already; it is stopped in good order at the end."""
    log = base / "bench.log"
    with log.open("wb") as errors:
        started = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "comfyk", "start", "--base-directory", str(base), "--port", "0"),
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env=_environment(),
            cwd=base,
        )
        try:
            yield Server(process, await _url(process, log), started, base)
        finally:
            await _stop(process)


def _environment() -> dict[str, str]:
    """Ours, without what would change the figures: settings, and a ban on keeping compiled modules."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("COMFYK_")}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return kept


async def _url(process: asyncio.subprocess.Process, log: Path) -> str:
    """Wait for the line that says where the server listens."""
    assert process.stdout is not None
    async with asyncio.timeout(_START_TIMEOUT_S):
        async for line in process.stdout:
            if found := _LISTENS.search(line):
                return found[0].decode()
    raise ServerFailed(f"comfyk start ended before it listened:\n{log.read_text(errors='replace')[-4000:]}")


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(_STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
