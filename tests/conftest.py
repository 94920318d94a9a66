"""Real servers in processes of their own, to be talked to over HTTP and killed; a private PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

PACK = """
import os
import signal
import time


class Nap:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"text": ("STRING",), "seconds": ("FLOAT",)}})
    RETURN_TYPES = ("STRING",)
    FUNCTION = "run"

    def run(self, text, seconds):
        time.sleep(seconds)
        return (text,)


class Say:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"text": ("STRING",)}})
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    def run(self, text):
        return {"ui": {"text": [text]}}


class Die(Nap):
    def run(self, text, seconds):
        os.kill(os.getpid(), signal.SIGKILL)


NODE_CLASS_MAPPINGS = {"Nap": Nap, "Say": Say, "Die": Die}
"""


class Server:
    """`comfyk start` on a base folder; may be killed and started again."""

    def __init__(self, base: Path, **environment: str) -> None:
        """`environment` is added to this process's, of which settings are left out."""
        self.base = base
        self.url = ""
        self.log: list[str] = []
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("COMFYK_")},
            **environment,
        }
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self, *arguments: str) -> None:
        """Start, and return once the address is printed."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "comfyk", "start", "--base-directory", str(self.base), "--port", "0", *arguments,
            env=self._environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read(ready))
        self.url = await asyncio.wait_for(ready, 60)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def _read(self, ready: asyncio.Future[str]) -> None:
        assert self._process is not None and self._process.stdout is not None
        while line := await self._process.stdout.readline():
            text = line.decode(errors="replace").rstrip()
            self.log.append(text)
            if not ready.done() and (found := re.search(r"https?://\S+:\d+", text)):
                ready.set_result(found[0])
        if not ready.done():
            ready.set_exception(RuntimeError("the server ended:\n" + "\n".join(self.log)))

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        return await self._end(signal.SIGTERM)

    async def died(self) -> int:
        """Wait for it to end by itself."""
        return await self._end(None)

    async def _end(self, sent: int | None) -> int:
        if self._process is None:
            return 0
        if sent is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(sent)
        code = await asyncio.wait_for(self._process.wait(), 30)
        if self._reader is not None:
            await self._reader
        self._process = None
        return code


@pytest.fixture
async def make_server(tmp_path: Path) -> AsyncIterator[Callable[..., Server]]:
    """`make_server(COMFYK_X="...")`: a server that is not started yet, with the nodes Nap, Say and Die."""
    async with contextlib.AsyncExitStack() as stack:

        def make(base: Path = tmp_path, **environment: str) -> Server:
            (base / "custom_nodes").mkdir(parents=True, exist_ok=True)
            (base / "custom_nodes" / "naps.py").write_text(PACK)
            server = Server(base, **environment)
            stack.push_async_callback(server.kill)
            return server

        yield make


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    """A server that is not started yet."""
    return make_server()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def prompt() -> Callable[..., dict[str, Any]]:
    """`prompt("text", kind="Nap", seconds=0.1)` says the text after a nap."""

    def make(text: str, kind: str = "Nap", seconds: float = 0.0) -> dict[str, Any]:
        return {
            "1": {"class_type": kind, "inputs": {"text": text, "seconds": seconds}},
            "2": {"class_type": "Say", "inputs": {"text": ["1", 0]}},
        }

    return make


def _postgres_program(name: str) -> str | None:
    found = shutil.which(name)
    if found is None:
        candidates = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
        found = str(candidates[-1]) if candidates else None
    return found


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[[], str]]:
    """A function that makes an empty database and returns its URL."""
    psycopg = pytest.importorskip("psycopg")
    initdb, pg_ctl = _postgres_program("initdb"), _postgres_program("pg_ctl")
    if initdb is None or pg_ctl is None:
        pytest.skip("PostgreSQL's initdb and pg_ctl are not installed")
    # Not under pytest's own folder: PostgreSQL refuses to run as root, and others may not enter there.
    folder = Path(tempfile.mkdtemp(prefix="comfyk-pg-"))
    other_user: dict[str, Any] = {}
    if os.getuid() == 0:
        shutil.chown(folder, "nobody")
        other_user = {"user": "nobody", "extra_groups": []}

    def run(*command: str) -> None:
        with (folder / "log").open("ab") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, cwd=folder, **other_user)

    try:
        run(
            initdb, "-D", f"{folder}/data", "-U", "postgres", "-A", "trust", "-N", "--no-locale", "-E", "UTF8"
        )
        options = f"-k {folder} -c listen_addresses='' -c fsync=off"
        run(pg_ctl, "-D", f"{folder}/data", "-w", "-l", f"{folder}/server.log", "-o", options, "start")
    except subprocess.CalledProcessError:
        log = (folder / "log").read_text(errors="replace")
        shutil.rmtree(folder)
        pytest.skip(f"PostgreSQL does not start here: {log[-500:]}")
    numbers = itertools.count()
    try:
        with psycopg.connect(f"host={folder} user=postgres dbname=postgres", autocommit=True) as admin:

            def make() -> str:
                name = f"test{next(numbers)}"
                admin.execute(f"CREATE DATABASE {name}")
                return f"postgresql://postgres@/{name}?host={folder}"

            yield make
    finally:
        run(pg_ctl, "-D", f"{folder}/data", "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)
