"""What WebSocket clients are told, and that no client can harm the others."""

from __future__ import annotations

import asyncio
import json
import logging
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import WSMsgType
from comfyk import hookimpl
from comfyk.events import Event, HistoryDeleted, JobEnded, JobQueued, Message


def types(messages: list[Any]) -> list[str]:
    return [message["type"] if isinstance(message, dict) else f"binary {message[3]}" for message in messages]


async def test_the_greeting_says_the_id(server: Any) -> None:
    async with server.client.ws_connect("/ws?clientId=me") as ws:
        message = await ws.receive_json()
        assert message == {
            "type": "status",
            "data": {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "me"},
        }
    for query in ("", "?clientId="):
        async with server.client.ws_connect(f"/api/ws{query}") as ws:
            assert len((await ws.receive_json())["data"]["sid"]) == 32


async def test_the_messages_of_a_job_come_in_order(server: Any) -> None:
    async with server.socket("me") as socket:
        job_id = await server.submit(server.show(5), client_id="me")
        messages = await socket.end_of(job_id)
    told = [m for m in messages if m["type"] not in ("status", "progress_state")]
    assert types(told) == [
        "execution_start", "execution_cached", "executing", "executing", "executed", "execution_success", "executing",
    ]  # fmt: skip
    assert [m["data"]["node"] for m in told if m["type"] == "executing"] == ["1", "2", None]
    assert told[4]["data"] == {
        "node": "2", "display_node": "2", "output": {"text": ["5"]}, "prompt_id": job_id,
    }  # fmt: skip
    assert "progress_state" in types(messages)
    assert messages[0]["data"]["status"]["exec_info"]["queue_remaining"] == 1


async def test_the_job_is_in_the_history_when_its_success_is_told(server: Any) -> None:
    async with server.socket("me") as socket:
        job_id = await server.submit(server.show(), client_id="me")
        await socket.until("execution_success")
        assert job_id in (await server.get(f"/history/{job_id}"))[1]


async def test_others_hear_of_the_queue_only(server: Any) -> None:
    async with server.socket("me") as mine, server.socket("other") as other:
        job_id = await server.submit(server.steps(steps=3, size=10), client_id="me")
        await mine.end_of(job_id)
        await server.submit(server.single("Fails", value=1), client_id="other")
        heard = await other.until("execution_error")
        assert {m["type"] for m in heard[: types(heard).index("execution_start")]} == {"status"}


async def test_jobs_of_no_client_tell_all_of_progress_and_interruption(server: Any) -> None:
    async with server.socket("a") as a, server.socket("b") as b:
        await server.run(server.steps(steps=2, size=10))
        job_id = await server.submit(server.single("Waits", value=1))
        before = {socket: await socket.until("progress_state", prompt_id=job_id) for socket in (a, b)}
        await server.post("/interrupt")
        for socket in (a, b):
            heard = set(types(before[socket] + await socket.until("execution_interrupted")))
            assert {"progress", "progress_state", "binary 1", "binary 3"} <= heard
            assert not {"execution_start", "executing", "executed", "execution_success"} & heard


async def test_previews_come_in_the_form_that_the_client_asked_for(server: Any) -> None:
    async with server.socket("plain") as socket:
        await server.submit(server.steps(steps=1, size=4), client_id="plain")
        messages = await socket.until("execution_success")
        preview, text = [m for m in messages if isinstance(m, bytes)]
        assert preview == struct.pack(">II", 1, 1) + b"\xff" * 4
        assert text == struct.pack(">II", 3, 1) + b"1" + b"done"
    async with server.socket("current", supports_preview_metadata=True) as socket:
        job_id = await server.submit(server.steps(steps=1, size=4), client_id="current")
        preview = next(m for m in await socket.until("execution_success") if isinstance(m, bytes))
    kind, length = struct.unpack(">II", preview[:8])
    assert kind == 4
    assert json.loads(preview[8 : 8 + length]) == {
        "node_id": "1",
        "prompt_id": job_id,
        "display_node_id": "1",
        "parent_node_id": None,
        "real_node_id": "1",
        "image_type": "image/jpeg",
    }
    assert preview[8 + length :] == b"\xff" * 4


async def test_feature_flags_are_negotiated(server: Any) -> None:
    async with server.client.ws_connect("/ws") as ws:
        await ws.receive_json()
        await ws.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
        message = await ws.receive_json()
    assert message["type"] == "feature_flags"
    assert message["data"] == (await server.get("/features"))[1]
    assert message["data"]["supports_preview_metadata"] is True
    assert message["data"]["max_upload_size"] == 100 * 1024 * 1024


async def test_a_client_that_comes_back_is_told_what_runs(server: Any) -> None:
    job_id = await server.submit(server.single("Waits", value=1), client_id="me")
    async with server.socket("me") as first:
        await first.until("executing", node="1")
        async with server.socket("me") as second:
            message = (await second.until("executing"))[-1]
            assert message["data"] == {"node": "1", "display_node": "1", "prompt_id": job_id}
            await server.post("/interrupt")
            await second.until("execution_interrupted")
            # What a client asks for comes to it after all that it was sent before.
            await first.ws.send_json({"type": "feature_flags", "data": {}})
            assert "execution_interrupted" not in types(await first.until("feature_flags"))


async def test_the_older_connection_does_not_take_the_newer_one_along(server: Any) -> None:
    async with server.socket("me") as older, server.socket("me") as newer:
        assert len(server.sockets) == 2
        await older.ws.close()
        await server.until(lambda: len(server.sockets) == 1)
        assert len(server.http.hub) == 1
        job_id = await server.submit(server.show(), client_id="me")
        await newer.end_of(job_id)
    await server.until(lambda: not server.sockets)
    assert len(server.http.hub) == 0


@pytest.mark.parametrize(
    "text",
    ["", "x", "[]", "1", "null", "{}", '{"type": []}', '{"type": "feature_flags", "data": 5}', "[" * 1000],
)
async def test_senseless_messages_are_ignored(server: Any, text: str) -> None:
    async with server.socket("me") as socket:
        await socket.ws.send_str(text)
        await socket.ws.send_bytes(b"\x00\xff")
        job_id = await server.submit(server.show(), client_id="me")
        await socket.end_of(job_id)


async def test_too_long_and_broken_messages_end_the_connection(server: Any) -> None:
    async with server.socket() as socket:
        with suppress(ConnectionError):  # the server does not wait for the end of it
            await socket.ws.send_str("x" * (5 * 1024 * 1024))
        message = await socket.ws.receive(5)
        assert message.type is WSMsgType.ERROR or message.data == 1009
    async with server.socket() as socket:
        await socket.ws.send_frame(b"\xff\xfe", WSMsgType.TEXT)
        assert (await socket.ws.receive(5)).type is WSMsgType.CLOSE
        assert socket.ws.close_code == 1007
    assert (await server.get("/prompt"))[0] == 200


async def test_a_request_that_is_no_websocket_is_told_so(server: Any) -> None:
    status, answer = await server.get("/ws")
    assert status == 400
    assert "error" in answer


class Listener:
    """A plugin that takes messages of its own kind, and fails on one."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    @hookimpl
    def comfyk_websocket_message(self, app: Any, client_id: str, message: Any) -> bool:
        if message["type"] == "fail":
            raise ValueError("no")
        self.heard.append((client_id, message))
        app.events.emit(Reply(client_id=client_id))
        return True


class Reply(Event):
    type = "reply"

    def data(self) -> dict[str, Any]:
        return {"hello": "there"}


async def test_messages_go_to_one_client_or_to_all(server: Any) -> None:
    emit = server.app.events.emit
    async with server.socket("a") as a, server.socket("b") as b:
        emit(Message(client_id="a", message_type="assets.seed", content={"done": 1}))
        emit(Message(client_id="a", message_type="", content=b"\x00\x00\x00\x63binary"))
        emit(Message(client_id="nobody", message_type="secret"))
        emit(Message(message_type="all", content=[None, float("nan")]))
        for_all = {"type": "all", "data": [None, None]}
        assert [await a.next() for _ in range(3)] == [
            {"type": "assets.seed", "data": {"done": 1}},
            b"\x00\x00\x00\x63binary",
            for_all,
        ]
        assert await b.next() == for_all


async def test_what_is_for_plugins_only_is_told_to_no_client(server: Any) -> None:
    async with server.socket("a") as socket:
        for event in (
            JobQueued(job_id="1", client_id="a"),
            JobEnded(job_id="1", client_id="a", status="completed"),
            JobEnded(job_id="1", status="completed"),
            HistoryDeleted(ids=["1"]),
            HistoryDeleted(ids=None, client_id="a"),
        ):
            server.app.events.emit(event)
        server.app.events.emit(Message(message_type="last"))
        assert (await socket.next())["type"] == "last"


async def test_plugins_hear_and_send_messages(start: Any) -> None:
    plugin = Listener()
    server = await start(plugins=[plugin])
    async with server.socket("me") as socket:
        await socket.ws.send_json({"type": "fail"})
        await socket.ws.send_json({"type": "hello"})
        assert (await socket.until("reply"))[-1]["data"] == {"hello": "there"}
    assert plugin.heard == [("me", {"type": "hello"})]


@pytest.mark.parametrize(("restart", "code"), [(False, 1001), (True, 1012)])
async def test_clients_are_told_when_the_server_stops(start: Any, restart: bool, code: int) -> None:
    server = await start()
    server.app.request_stop(restart=restart)
    ws = await server.client.ws_connect("/ws")
    await ws.receive_json()
    stopping = asyncio.create_task(server.http.stop())
    message = await ws.receive(5)
    assert (message.type, message.data) == (WSMsgType.CLOSE, code)
    await stopping


async def test_clients_that_never_read_delay_nobody_and_are_dropped(start: Any, caplog: Any) -> None:
    """Half of the clients take in nothing; 400 previews of 100 kB are sent to all."""
    server = await start(client_buffer_mb=4)
    prompt = server.steps(steps=400, size=100_000, pause=0.001)
    async with server.socket("reader") as reader:
        sleepers = [await _connect_and_sleep(server) for _ in range(20)]
        await server.submit(prompt)
        with caplog.at_level(logging.WARNING):
            heard = await reader.until("status", status={"exec_info": {"queue_remaining": 0}})
        assert types(heard).count("binary 1") > 10
        waiting = [client._bytes for client in server.http.hub._clients.values()]
        assert max(waiting) < 4 * 1024 * 1024
        for _, writer in sleepers:
            writer.close()


async def _connect_and_sleep(server: Any) -> Any:
    host, port = server.http.addresses[0]
    reader, writer = await asyncio.open_connection(host, port, limit=1024)
    writer.write(
        b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def test_two_hundred_clients_of_whom_half_never_read(start: Any, caplog: Any) -> None:
    """1,000 messages of progress and previews: memory stays bounded, slow clients are dropped and named."""
    server = await start(client_timeout=1)
    prompt = server.steps(steps=1000, size=300_000, pause=0.0003)
    await server.run(prompt)
    host, port = server.http.addresses[0]
    script = Path(__file__).with_name("crowd.py")
    crowd = await asyncio.create_subprocess_exec(
        sys.executable, str(script), host, str(port), "200", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert crowd.stdout is not None
        await asyncio.wait_for(crowd.stdout.readline(), 20)
        before = psutil.Process().memory_info().rss
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                await server.run(prompt)
            grown = psutil.Process().memory_info().rss - before
            for _ in range(60):
                if len(server.http.hub) <= 100:
                    break
                await server.run(prompt)
        assert "is dropped" in caplog.text
        assert len(server.http.hub) == 100
    finally:
        crowd.kill()
        await crowd.wait()
    assert grown < 100 * 1024 * 1024


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65_535, 65_536, 1_000_000])
async def test_messages_of_every_length_arrive(server: Any, length: int) -> None:
    async with server.socket() as socket:
        server.app.events.emit(Message(message_type="test", content="x" * length))
        assert await socket.next() == {"type": "test", "data": "x" * length}
        server.app.events.emit(Message(message_type="test", content=b"y" * length))
        assert await socket.next() == b"y" * length


async def test_many_clients_come_and_go(server: Any) -> None:
    async def visit(number: int) -> None:
        async with server.socket(f"client{number % 10}"):
            await asyncio.sleep(0.001 * (number % 7))

    await asyncio.gather(*(visit(number) for number in range(100)))
    await server.until(lambda: not server.sockets)
    assert len(server.http.hub) == 0
