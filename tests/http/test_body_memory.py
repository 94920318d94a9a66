"""Bodies share their memory: what is too much at once waits, or is told to come again, and small ones go by."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest

LARGE = b'{"x": "' + b"x" * 9_000_000 + b'"}'
HALF = len(LARGE) // 2
SMALL = {"small": 1}


class Sender:
    """A client whose body comes as the test wants it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self) -> bytes:
        async with asyncio.timeout(10):
            return await self._reader.readline()

    def leave(self) -> None:
        self._writer.transport.abort()


@pytest.fixture
async def begin(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """`await begin(server, chunked=True)`: a body of which half has come. Nobody waits long here."""
    monkeypatch.setattr("comfyk_http.bodies._WAIT_S", 0.3)
    opened: list[Sender] = []

    async def begin(server: Any, *, chunked: bool = False) -> Sender:
        host, port = server.http.addresses[0]
        sender = Sender(*await asyncio.open_connection(host, port))
        opened.append(sender)
        kind = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(LARGE)}"
        head = f"POST /settings HTTP/1.1\r\nHost: {host}:{port}\r\n{kind}\r\n\r\n"
        if chunked:
            head += f"{len(LARGE):x}\r\n"
        await sender.send(head.encode() + LARGE[:HALF])
        for _ in range(3):
            await server.get("/prompt")  # by then the server has seen it
        return sender

    yield begin
    for sender in opened:
        sender.leave()


async def test_a_large_body_waits_for_another_and_a_small_one_for_none(start: Any, begin: Any) -> None:
    server = await start(body_memory_mb=40)
    first = await begin(server)
    async with server.client.post("/settings", data=LARGE) as answer:
        assert answer.status == 503 and answer.headers["Retry-After"] == "10"
        assert "http.body_memory_mb" in await answer.text()
    assert (await server.post("/settings", SMALL))[0] == 200
    waiting = asyncio.ensure_future(server.request("POST", "/settings", data=LARGE))
    await first.send(LARGE[HALF:])
    assert b" 200 " in await first.answer()
    assert (await waiting)[0] == 200


@pytest.mark.parametrize("chunked", [False, True])
async def test_whoever_leaves_or_is_refused_leaves_room(start: Any, begin: Any, chunked: bool) -> None:
    server = await start(body_memory_mb=40, max_upload_size_mb=10)
    for _ in range(3):
        first = await begin(server, chunked=chunked)
        waiting = asyncio.ensure_future(server.request("POST", "/settings", data=LARGE))
        await asyncio.sleep(0)
        first.leave()
        assert (await waiting)[0] == 200
        assert (await server.request("POST", "/prompt", data=LARGE[:-1]))[0] == 400
        assert (await server.request("POST", "/settings", data=LARGE + b" " * 3_000_000))[0] == 413
    last = await begin(server, chunked=chunked)
    await last.send(LARGE[HALF:] + (b"\r\n0\r\n\r\n" if chunked else b""))
    assert b" 200 " in await last.answer()


async def test_a_body_that_takes_its_time_makes_room_for_others(
    start: Any, begin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comfyk_http.bodies._SLOW_S", 0.1)
    server = await start(body_memory_mb=40)
    slow = await begin(server)
    assert (await server.request("POST", "/settings", data=LARGE))[0] == 200
    assert b" 503 " in await slow.answer()


async def test_one_alone_may_be_larger_than_all_may_be_together(start: Any) -> None:
    server = await start(body_memory_mb=1)
    assert (await server.request("POST", "/settings", data=LARGE))[0] == 200
    at_once = [server.request("POST", "/settings", data=LARGE) for _ in range(4)]
    assert {status for status, _ in await asyncio.gather(*at_once)} == {200}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' allocators give back what they like")
async def test_many_large_prompts_take_the_memory_of_a_few_and_give_it_back(
    make_server: Any, session: Any
) -> None:
    server = make_server(COMFYK_PLUGINS__DISABLED='["core-nodes"]', COMFYK_HTTP__BODY_MEMORY_MB="60")
    await server.start()
    prompt = {"1": {"class_type": "Say", "inputs": {"text": "x"}}}
    values = b",".join([b'{"a":1}'] * 150_000)
    process = psutil.Process(server.pid)

    async def post() -> int:
        head = json.dumps({"prompt": prompt, "prompt_id": str(uuid.uuid4())}).encode()
        text = b'{"text":"' + b"x" * 20_000_000 + b'","values":[' + values + b"]}"
        body = head[:-1] + b',"extra_data":' + text + b"}"
        async with session.post(server.url + "/prompt", data=body) as answer:
            return answer.status

    async with session.post(server.url + "/queue", json={"pause": True}):
        assert await post() == 200
    await asyncio.sleep(1)
    before = peak = process.memory_info().rss

    async def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, process.memory_info().rss)
            await asyncio.sleep(0.01)

    watching = asyncio.ensure_future(watch())
    statuses = await asyncio.gather(*(post() for _ in range(8)))
    watching.cancel()
    assert set(statuses) <= {200, 503} and 200 in statuses
    assert peak - before < 400_000_000, f"{(peak - before) / 1e6:.0f} MB"
    async with asyncio.timeout(20):
        while process.memory_info().rss - before > 50_000_000:
            await asyncio.sleep(0.1)
