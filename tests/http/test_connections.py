"""Connections that are silent, slow or too many: they end, and whoever else is there does not notice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

UPGRADE = (
    b"GET /ws?clientId=%s HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Raw:
    """A client that says what it is told to, and no more."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def ended(self, within: float = 10) -> bytes:
        """Wait until the server closes; returns what it sent before."""
        async with asyncio.timeout(within):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def is_open(self, seconds: float) -> bool:
        """Whether the server has not closed after so long."""
        try:
            async with asyncio.timeout(seconds):
                await self.reader.read()
        except TimeoutError:
            return True
        except ConnectionError:
            pass
        return False


@pytest.fixture
async def connect() -> AsyncIterator[Any]:
    """`await connect(server)` opens a connection; all are closed in the end."""
    opened: list[Raw] = []

    async def connect(server: Any) -> Raw:
        host, port = server.http.addresses[0]
        opened.append(Raw(*await asyncio.open_connection(host, port)))
        return opened[-1]

    yield connect
    for raw in opened:
        raw.writer.transport.abort()


# --- silent and slow ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [b"", b"G", b"GET /prompt HTTP/1.1\r\n", b"GET /prompt HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "],
    ids=["nothing", "a letter", "a line", "half a header"],
)
async def test_a_request_that_never_comes_is_not_waited_for(start: Any, connect: Any, sent: bytes) -> None:
    server = await start(header_timeout=0.3, keepalive_timeout=0.3)
    raw = await connect(server)
    raw.send(sent)
    assert await raw.ended() == b""


async def test_a_header_that_drips_in_has_a_time_too(start: Any, connect: Any) -> None:
    server = await start(header_timeout=0.5, keepalive_timeout=60)
    raw = await connect(server)

    async def drip() -> None:
        raw.send(b"GET /prompt HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        while not raw.writer.is_closing():
            raw.send(b"X: y\r\n")
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    assert await raw.ended() == b""
    dripping.cancel()


async def test_a_kept_connection_waits_for_the_next_request_and_not_for_ever(
    start: Any, connect: Any
) -> None:
    server = await start(header_timeout=0.2, keepalive_timeout=1)
    raw = await connect(server)
    for _ in range(3):  # longer than a header may take, shorter than it may be idle
        raw.send(b"POST /queue HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n")
        await asyncio.sleep(0.05)
        raw.send(b"{}")
        assert b"200" in await raw.reader.readline()
        await raw.reader.readuntil(b"null")
        assert await raw.is_open(0.5)
    await raw.ended()


@pytest.mark.parametrize("path", ["/prompt", "/userdata/x.bin", "/upload/image"])
async def test_a_body_that_stops_is_not_waited_for(start: Any, connect: Any, path: str) -> None:
    server = await start(body_timeout=0.5)
    raw = await connect(server)
    raw.send(
        b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n" % path.encode()
    )
    await raw.ended()
    await server.until(lambda: not list(server.app.folders.base.rglob(".comfyk-upload-*")))
    assert (await server.get("/prompt"))[0] == 200


async def test_a_body_that_drips_in_is_too_slow(start: Any, connect: Any) -> None:
    server = await start(body_timeout=0.5, min_rate_kb=10)
    raw = await connect(server)
    raw.send(b"POST /userdata/x.bin HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n")

    async def drip() -> None:
        while not raw.writer.is_closing():
            raw.send(b"x" * 10)
            await asyncio.sleep(0.02)

    dripping = asyncio.create_task(drip())
    await raw.ended()
    dripping.cancel()


async def test_a_slow_but_steady_upload_takes_as_long_as_it_needs(start: Any) -> None:
    server = await start(body_timeout=0.5, min_rate_kb=10)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(40):  # 2 s at 20 kB a second
            yield b"x" * 1024
            await asyncio.sleep(0.05)

    assert (await server.request("POST", "/userdata/x.bin", data=pieces()))[0] == 200
    assert (server.app.folders.user / "default/x.bin").stat().st_size == 40 * 1024


async def test_an_answer_that_nobody_takes_in_ends(start: Any, connect: Any) -> None:
    server = await start(body_timeout=0.5, keepalive_timeout=0.5)
    (server.app.folders.output / "large.bin").write_bytes(bytes(64 * 1024 * 1024))
    raw = await connect(server)
    raw.writer.transport.pause_reading()
    raw.send(b"GET /view?filename=large.bin HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    await server.until(lambda: len(server.http.connections) == 1)
    await server.until(lambda: len(server.http.connections) == 0)


async def test_an_answer_that_is_taken_in_slowly_is_sent_whole(start: Any, connect: Any) -> None:
    server = await start(body_timeout=0.5, keepalive_timeout=0.5)
    size = 24 * 1024 * 1024
    (server.app.folders.output / "large.bin").write_bytes(bytes(size))
    raw = await connect(server)
    raw.send(b"GET /view?filename=large.bin HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    await raw.reader.readuntil(b"\r\n\r\n")
    for _ in range(24):  # longer than it may pause
        await asyncio.sleep(0.1)
        await raw.reader.readexactly(size // 24)


async def test_a_request_that_the_server_works_on_has_all_time(start: Any, connect: Any) -> None:
    from aiohttp import web
    from comfyk import hookimpl

    class Slow:
        @hookimpl
        def comfyk_register_routes(self) -> list[Any]:
            async def slow(request: web.Request) -> web.Response:
                await asyncio.sleep(1)
                return web.Response(text="done")

            return [web.post("/slow", slow)]

    server = await start(plugins=[Slow()], header_timeout=0.1, keepalive_timeout=0.1, body_timeout=0.1)
    assert await server.post("/slow", {}) == (200, b"done")


# --- WebSockets ---------------------------------------------------------------------------------------------------


async def test_a_websocket_that_answers_no_ping_is_dropped(start: Any, connect: Any) -> None:
    server = await start(websocket_timeout=0.6)
    raw = await connect(server)
    raw.send(UPGRADE % b"mute")
    sent = await raw.ended()
    assert b"\x89\x00" in sent
    await server.until(lambda: len(server.http.hub) == 0)


async def test_a_websocket_that_answers_pings_stays(start: Any) -> None:
    server = await start(websocket_timeout=0.4)
    async with server.socket("quiet") as socket:
        with pytest.raises(TimeoutError):  # the client answers pings while it waits for messages
            async with asyncio.timeout(1.5):
                await socket.next(60)
        assert "quiet" in server.http.hub


async def test_a_message_that_is_too_long_ends_the_websocket(start: Any) -> None:
    server = await start(max_message_kb=10)
    async with server.client.ws_connect("/ws") as ws:
        await ws.receive()
        await ws.send_str("x" * 20_000)
        assert (await ws.receive(5)).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
        assert ws.close_code == 1009


async def test_what_a_client_says_of_itself_is_kept_within_limits(start: Any) -> None:
    server = await start()
    async with server.socket("me", supports_preview_metadata=True) as socket:
        client = server.http.hub._clients["me"]
        for flags in (
            {"supports_preview_metadata": True, **{f"flag{n}": n for n in range(5000)}},
            {"supports_preview_metadata": True, "long": "x" * 500_000, "deep": [[[{}]]], "x" * 1000: 1},
        ):
            await socket.ws.send_json({"type": "feature_flags", "data": flags})
            await socket.until("feature_flags")
            assert client.flags["supports_preview_metadata"] is True
            assert len(json.dumps(client.flags)) < 10_000
        # What is absurdly large is not read at all, and the client is served on.
        for text in ("[" * 100_000, json.dumps({"type": "feature_flags", "data": [{}] * 20_000})):
            await socket.ws.send_str(text)
        await socket.ws.send_json({"type": "feature_flags", "data": {}})
        await socket.until("feature_flags")
        assert client.flags == {}


# --- many ---------------------------------------------------------------------------------------------------------


async def test_idle_connections_make_room_for_new_ones(start: Any, connect: Any, caplog: Any) -> None:
    server = await start(max_connections=12)
    async with server.socket("stays") as socket:
        crowd = [await connect(server) for _ in range(100)]
        for _ in range(3):
            async with aiohttp.ClientSession(server.url) as stranger, stranger.get("/prompt") as response:
                assert response.status == 200
        assert len(server.http.connections) <= 12
        await server.run(server.show(1), client_id="stays")
        await socket.until("execution_success")
        await crowd[0].ended()
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) <= 2


async def test_connections_in_use_are_kept_and_the_next_is_told(
    start: Any, connect: Any, caplog: Any
) -> None:
    server = await start(max_connections=8, max_connections_per_address=8)
    busy = [await connect(server) for _ in range(8)]
    for raw in busy:
        raw.send(b"POST /prompt HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
    await server.until(lambda: len(server.http.connections) == 8)
    await asyncio.sleep(0.1)
    for _ in range(50):
        raw = await connect(server)
        answer = await raw.ended()
        if answer:
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503")
            assert "max_connections" in json.loads(body)["error"]["details"]
    for raw in busy:
        raw.send(b" " * 98 + b"}")
        assert b"400" in await raw.reader.readline()
    assert len([record for record in caplog.records if record.name == "comfyk_http.connections"]) <= 3


async def test_one_address_cannot_have_all(start: Any) -> None:
    server = await start(listen="127.0.0.1", max_connections=16, max_connections_per_address=4)
    host, port = server.http.addresses[0]
    opened = [await asyncio.open_connection(host, port, local_addr=("127.0.0.9", 0)) for _ in range(10)]
    for _, writer in opened:
        writer.write(b"POST /prompt HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
    await asyncio.sleep(0.2)
    assert len(server.http.connections) <= 4
    assert (await server.get("/prompt"))[0] == 200
    for _, writer in opened:
        writer.close()


async def test_websockets_leave_room_for_requests(start: Any) -> None:
    server = await start(max_connections=8, max_connections_per_address=8)
    async with aiohttp.ClientSession(server.url) as client:
        sockets = [await client.ws_connect("/ws") for _ in range(6)]
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await client.ws_connect("/ws")
        assert refused.value.status == 503
        assert (await server.get("/prompt"))[0] == 200
        await sockets[0].close()
        await server.until(lambda: server.http.connections.websockets == 5)
        sockets.append(await client.ws_connect("/ws"))


@asynccontextmanager
async def few_descriptors(base: Path, *options: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A server that may have 256 files open, and its address."""
    # By a shell: nothing else of this process may be limited.
    program = f"{sys.executable} -m comfyk --base-directory {base} start --port 0 {' '.join(options)}"
    command = f"ulimit -n 256 && exec {program}"
    started = await asyncio.create_subprocess_exec(
        "sh", "-c", command, stdout=asyncio.subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert started.stdout is not None
    try:
        while b"http://" not in (line := await asyncio.wait_for(started.stdout.readline(), 30)):
            assert line, "it did not start"
        yield started, line.decode().split()[-1]
    finally:
        with contextlib.suppress(ProcessLookupError):  # the test has ended it
            started.kill()
        await started.wait()


async def test_a_server_with_few_descriptors_outlives_a_crowd(tmp_path: Path) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 1000:
        pytest.skip("this test needs descriptors of its own")
    log = bytearray()
    async with few_descriptors(tmp_path, "--set", "plugins.disabled=core-nodes") as (started, url):

        async def read() -> None:
            assert started.stdout is not None
            while data := await started.stdout.read(65536):
                log.extend(data)

        reading = asyncio.create_task(read())
        host, port = url.removeprefix("http://").split(":")
        async with aiohttp.ClientSession(url) as client, client.ws_connect("/ws?clientId=me") as ws:
            await ws.receive_json()
            crowd = []
            for number in range(600):
                crowd.append(await asyncio.open_connection(host, int(port)))
                if number % 3:
                    crowd[-1][1].write(
                        b"GET /prompt HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " if number % 3 == 1 else b"G"
                    )
            for path in ("/prompt", "/system_stats", "/object_info") * 3:
                async with aiohttp.ClientSession(url) as stranger, stranger.get(path) as response:
                    assert response.status == 200, path
            assert psutil.Process(started.pid).num_fds() < 256
            async with client.post("/queue", json={"pause": True}) as response:
                assert response.status == 200
            assert not ws.closed
            await ws.send_json({"type": "feature_flags", "data": {}})
            while (await ws.receive_json(timeout=10))["type"] != "feature_flags":
                pass
            for _, writer in crowd:
                writer.transport.abort()
            async with asyncio.timeout(20):
                while psutil.Process(started.pid).num_fds() > 100:
                    await asyncio.sleep(0.05)
        started.kill()
        await reading
    assert len(log) < 5_000, log[-2000:]
    assert b"Traceback" not in log


# --- what is no HTTP ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /\x1b[2J\r\n12:00:00 INFO x\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: \x00\r\n\r\n", 400),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 431),
        (b"POST /queue HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST /queue HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST /queue HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: tea\r\nContent-Length: 2\r\n\r\n{}", 417),
    ],
)
async def test_what_is_no_http_is_answered_in_json_and_logged_once(
    server: Any, connect: Any, caplog: Any, sent: bytes, status: int
) -> None:
    caplog.set_level("INFO")
    raw = await connect(server)
    raw.send(sent)
    head, _, body = (await raw.ended()).partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status
    assert b"content-type: application/json" in head.lower()
    error = json.loads(body)["error"]
    assert error["type"] and error["message"]
    assert len(caplog.records) <= 1
    assert not any(record.exc_info for record in caplog.records)


async def test_continue_is_said_to_who_asks_for_it(server: Any, connect: Any) -> None:
    raw = await connect(server)
    raw.send(b"POST /queue HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert await raw.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    raw.send(b"{}")
    assert b"200" in await raw.reader.readline()
