"""A client of the server: requests on kept connections, and a WebSocket that is told what happens."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from benchmarks.packs import CHEAP, PICTURE, Prompt, chain
from benchmarks.server import Server, serving

CLIENT_ID = "bench"
CONNECTIONS = 32


@dataclass(slots=True)
class Seen:
    """When the client saw a job go, in milliseconds from the moment it sent the prompt."""

    acknowledged: float
    success: float
    ended: float
    """`executing` without a node: the job is over."""


class Client:
    """Sends to one server, and hears from it what becomes of its jobs."""

    def __init__(self, session: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._session = session
        self._socket = socket

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, bytes, Mapping]:
        """Status, body and headers. Asks for no compression unless `headers` do."""
        given = {"Accept-Encoding": "identity", **(headers or {})}
        async with self._session.get(path, headers=given) as response:
            return response.status, await response.read(), response.headers

    async def timed_get(self, path: str, headers: Mapping[str, str] | None = None) -> float:
        """Milliseconds until the body is there."""
        start = time.perf_counter()
        await self.get(path, headers)
        return (time.perf_counter() - start) * 1000

    async def post(self, path: str, body: Any) -> bytes:
        """Send JSON. Raises ClientResponseError for anything but success."""
        async with self._session.post(path, json=body) as response:
            response.raise_for_status()
            return await response.read()

    async def submit(self, prompt: Prompt) -> str:
        """Queue a prompt; returns its id."""
        answer = json.loads(await self.post("/prompt", {"prompt": prompt, "client_id": CLIENT_ID}))
        return answer["prompt_id"]

    async def run(self, prompt: Prompt) -> Seen:
        """Queue a prompt and follow it to its end."""
        start = time.perf_counter()
        job_id = await self.submit(prompt)
        acknowledged = time.perf_counter()
        success = ended = 0.0
        async for kind, data, at in self.messages():
            if data.get("prompt_id") != job_id:
                continue
            if kind == "execution_success":
                success = at
            elif kind == "execution_error":
                raise RuntimeError(data["exception_message"])
            elif data["node"] is None:
                ended = at
            if success and ended:
                break
        return Seen(*((at - start) * 1000 for at in (acknowledged, success, ended)))

    async def see_end(self, jobs: int) -> None:
        """Wait until so many jobs have ended."""
        async for kind, data, _ in self.messages():
            if kind == "executing" and data["node"] is None:
                jobs -= 1
                if not jobs:
                    return

    async def messages(self) -> AsyncIterator[tuple[str, dict[str, Any], float]]:
        """The messages about the course of jobs, with the time they were seen. Others are not even parsed."""
        while True:
            received = await self._socket.receive()
            at = time.perf_counter()
            if received.type is aiohttp.WSMsgType.BINARY:
                continue
            if received.type is not aiohttp.WSMsgType.TEXT:
                raise RuntimeError("the server closed the connection")
            text: str = received.data
            if '"execut' not in text[:30]:
                continue
            message = json.loads(text)
            if message["type"] in ("executing", "execution_success", "execution_error"):
                yield message["type"], message["data"], at


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[Client]:
    """A client with its WebSocket open."""
    connector = aiohttp.TCPConnector(limit=CONNECTIONS + 1)
    async with (
        aiohttp.ClientSession(server.url, connector=connector, timeout=_NO_TIMEOUT) as session,
        session.ws_connect(f"/ws?clientId={CLIENT_ID}", max_msg_size=0) as socket,
    ):
        yield Client(session, socket)


_NO_TIMEOUT = aiohttp.ClientTimeout(total=None)


@asynccontextmanager
async def warm_server(packs: Mapping[str, str] | None = None) -> AsyncIterator[tuple[Server, Client]]:
    """A server with the cheap nodes that has run a job, so that torch is imported, and a client of it."""
    async with serving({"bench_cheap": CHEAP, **(packs or {})}) as server, connected(server) as client:
        await client.run(PICTURE)  # waits for torch, whose import would be in the way of what is measured
        for value in range(20):
            await client.run(chain(3, value))
        yield server, client
