"""The server as a process of its own, as users start it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import psutil
from yarl import URL

SHOW = """
class Show:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"text": ("STRING",)}})
    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "run", "test", True
    def run(self, text):
        return {"ui": {"text": [text]}}
NODE_CLASS_MAPPINGS = {"Show": Show}
"""


@asynccontextmanager
async def process(base: Path, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "comfyk", "--base-directory", str(base), "start", *options,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
            await started.wait()


async def url_of(started: asyncio.subprocess.Process) -> str:
    assert started.stdout is not None
    line = (await asyncio.wait_for(started.stdout.readline(), 30)).decode()
    assert line.startswith("To see the GUI go to: http://127.0.0.1:"), line
    return line.split()[-1]


async def test_it_starts_runs_a_prompt_and_stops(tmp_path: Path) -> None:
    prompt = {"1": {"class_type": "PreviewAny", "inputs": {"source": "hello"}}}
    async with process(tmp_path, "--port", "0") as started:
        async with (
            aiohttp.ClientSession(await url_of(started)) as client,
            client.ws_connect("/ws?clientId=me") as ws,
        ):
            async with client.post("/prompt", json={"prompt": prompt, "client_id": "me"}) as response:
                assert response.status == 200, await response.text()
                job_id = (await response.json())["prompt_id"]
            async for message in ws:
                data = json.loads(message.data)
                if data["type"] == "executed":
                    assert data["data"]["output"] == {"text": ["hello"]}
                elif data["type"] == "execution_success":
                    break
            async with client.get("/internal/logs") as response:
                log = await response.text()
            assert f"got prompt {job_id}" in log
            assert re.search(rf"Prompt executed in \d+\.\d\d seconds: {job_id}, completed", log), log
            started.send_signal(signal.SIGTERM)
            while (message := await ws.receive(10)).type is not aiohttp.WSMsgType.CLOSE:
                assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
            assert ws.close_code == 1001
        assert await asyncio.wait_for(started.wait(), 10) == 0


async def test_a_large_history_costs_its_reader_alone(tmp_path: Path) -> None:
    """60 MB in 60 jobs, as large workflows make them: it is sent as it is read."""
    workflow = {"nodes": ["x" * 1_000_000]}
    (tmp_path / "custom_nodes").mkdir()
    (tmp_path / "custom_nodes" / "show.py").write_text(SHOW)
    without_torch = ("--set", "plugins.disabled=core-nodes")  # which takes memory too
    async with (
        process(tmp_path, "--port", "0", *without_torch) as started,
        aiohttp.ClientSession(await url_of(started)) as client,
    ):
        async with client.ws_connect("/ws?clientId=me") as ws:
            for number in range(60):
                prompt = {"1": {"class_type": "Show", "inputs": {"text": str(number)}}}
                extra = {"extra_pnginfo": {"workflow": workflow}}
                body = {"prompt": prompt, "client_id": "me", "extra_data": extra}
                async with client.post("/prompt", json=body) as response:
                    assert response.status == 200, await response.text()
                while json.loads((await ws.receive(30)).data)["type"] != "execution_success":
                    pass
        server = psutil.Process(started.pid)
        before = peak = server.memory_info().rss
        async with client.get("/history") as response:
            newest = list(await response.json())
            assert 10 < len(newest) < 17 and response.headers["X-History-Total"] == "60"
        async with client.get("/history?max_items=1000") as response:
            assert response.status == 200 and response.content_type == "application/json"
            pieces = []
            async for piece in response.content.iter_chunked(100_000):
                peak = max(peak, server.memory_info().rss)
                pieces.append(piece)
        history = json.loads(b"".join(pieces))
        shown = [entry["outputs"]["1"]["text"] for entry in history.values()]
        assert shown == [[str(number)] for number in range(60)]
        assert list(history)[-len(newest) :] == newest and "X-History-Total" not in response.headers
        assert sum(map(len, pieces)) > 60_000_000
        assert peak - before < 35_000_000, f"it grew by {(peak - before) / 1e6:.0f} MB"


async def test_a_port_in_use_is_no_traceback(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        async with process(tmp_path, "--port", str(taken.getsockname()[1])) as started:
            _, errors = await asyncio.wait_for(started.communicate(), 30)
    assert started.returncode not in (0, None)
    assert b"in use" in errors
    assert b"--port" in errors
    assert b"Traceback" not in errors


async def test_nobody_forges_lines_of_the_log(tmp_path: Path) -> None:
    forged = "%0d%0a12:00:00%20ERROR%20%20%20all%20is%20lost%1b%5b2J%e2%80%a8x%c2%9b1A"
    prompt = {"1\n12:00:00 ERROR   x\x1b[2J": {"class_type": "No\r\n12:00:00 ERROR   y", "inputs": {}}}
    async with process(tmp_path, "--port", "0", "--set", "plugins.disabled=core-nodes") as started:
        url = await url_of(started)
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            f"GET /view{forged}?filename={forged} HTTP/1.1\r\nHost: evil{chr(0x9B)}.example\r\n"
            "Connection: close\r\n\r\n".encode("latin-1")
        )
        assert b"403" in await reader.readline()
        writer.close()
        async with aiohttp.ClientSession(url) as client:
            for path in (f"/view?filename={forged}", f"/userdata/{forged}", f"/object_info/{forged}"):
                async with client.get(URL(url + path, encoded=True)) as response:
                    assert response.status in (404, 409)
            async with client.post(
                "/prompt", json={"prompt": prompt, "client_id": "\r\n12:00:00"}
            ) as response:
                assert response.status == 400
            async with client.ws_connect(URL(f"{url}/ws?clientId={forged}", encoded=True)) as ws:
                await ws.send_str("not json")
            async with client.get("/internal/logs") as response:
                panel = await response.text()
        started.send_signal(signal.SIGTERM)
        out, errors = await asyncio.wait_for(started.communicate(), 30)
    for line in (*(out + errors).decode().splitlines(), *panel.splitlines()):
        assert line.isprintable(), line
        assert "ERROR" not in line or "\\n12:00:00" in line or line.startswith("    | "), line
    assert b"refused GET /view\\r\\n12:00:00 ERROR" in out + errors


async def test_an_upload_that_a_crash_cut_off_leaves_nothing(tmp_path: Path) -> None:
    for folder in ("input", "user/default"):
        (tmp_path / folder).mkdir(parents=True)
    options = ("--port", "0", "--set", "plugins.disabled=core-nodes")
    async with process(tmp_path, *options) as started:
        host, port = (await url_of(started)).removeprefix("http://").split(":")
        writers: list[asyncio.StreamWriter] = []  # one that nobody holds is closed
        for path, head in (
            ("/userdata/x.bin", ""),
            (
                "/upload/image",
                '--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n',
            ),
        ):
            _, writer = await asyncio.open_connection(host, int(port))
            writers.append(writer)
            writer.write(
                f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9000000\r\n"
                f"Content-Type: multipart/form-data; boundary=x\r\n\r\n{head}".encode()
                + b"x" * 3_000_000
            )
            await writer.drain()
        async with asyncio.timeout(20):
            while sum(path.stat().st_size for path in tmp_path.rglob(".comfyk-upload-*")) < 4_000_000:
                await asyncio.sleep(0.02)
        started.kill()
        await started.wait()
    assert len(list(tmp_path.rglob(".comfyk-upload-*"))) == 2
    async with process(tmp_path, *options) as started:
        await url_of(started)
        async with asyncio.timeout(20):
            while list(tmp_path.rglob(".comfyk-upload-*")):
                await asyncio.sleep(0.02)


MB = 1024 * 1024


async def _pieces(size: int) -> AsyncIterator[bytes]:
    piece = bytes(range(256)) * (MB // 256)
    for _ in range(size // MB):
        yield piece


async def _upload(client: aiohttp.ClientSession, name: str, size: int) -> None:
    form = aiohttp.FormData()
    form.add_field("image", _pieces(size), filename=name, content_type="application/octet-stream")
    async with client.post("/upload/image", data=form) as response:
        assert response.status == 200, await response.text()


async def _length(client: aiohttp.ClientSession, path: str) -> int:
    length = 0
    async with client.get(path) as response:
        async for data in response.content.iter_chunked(MB):
            length += len(data)
    return length


async def test_memory_does_not_grow_with_files(tmp_path: Path) -> None:
    """64 MB up and down, as an upload and as a user's file; the benchmark `http` does it with 1 GB."""
    size, most = 64 * MB, 0
    async with (
        process(
            tmp_path, "--port", "0", "--max-upload-size", "100", "--set", "plugins.disabled=core-nodes"
        ) as started,
        aiohttp.ClientSession(await url_of(started)) as client,
    ):
        server = psutil.Process(started.pid)

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, server.memory_info().rss)
                await asyncio.sleep(0.005)

        await _upload(client, "small.bin", MB)
        assert await _length(client, "/view?filename=small.bin&type=input") == MB
        before = server.memory_info().rss
        watching = asyncio.create_task(watch())
        await _upload(client, "large.bin", size)
        assert await _length(client, "/view?filename=large.bin&type=input") == size
        async with client.post("/userdata/large.bin", data=_pieces(size)) as response:
            assert response.status == 200
        assert await _length(client, "/userdata/large.bin") == size
        watching.cancel()
    assert most - before < 24 * MB
