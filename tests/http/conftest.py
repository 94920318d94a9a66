"""A server that listens on a free port, in this process, with nodes that the tests register."""

from __future__ import annotations

import asyncio
import io as stdio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import comfyk_http.plugin
import pytest
from aiohttp import web
from comfyk import check_interrupted, progress, progress_text
from comfyk.app import App
from comfyk.events import PreviewImage
from comfyk.plugins import Plugins
from comfyk.settings import load_settings
from comfyk_http.plugin import server_of
from comfyk_http.server import HttpServer
from comfyk_http.websocket import SOCKETS
from PIL import Image


class Number:
    """Gives a number."""

    RETURN_TYPES = ("INT",)
    FUNCTION = "run"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"value": ("INT", {"default": 0, "min": 0, "max": 1000})}}

    def run(self, value: int) -> tuple[int]:
        return (value,)


class Output:
    """What all output nodes have."""

    RETURN_TYPES = ()
    FUNCTION = "run"
    CATEGORY = "test"
    OUTPUT_NODE = True


class Show(Output):
    """An output node that shows a number."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"value": ("INT",)}}

    def run(self, value: int) -> dict[str, Any]:
        return {"ui": {"text": [str(value)]}}


class Fails(Show):
    """An output node that raises."""

    def run(self, value: int) -> dict[str, Any]:
        raise ValueError(f"no luck with {value}")


class Steps(Output):
    """Reports so many steps of progress, each with a preview of `size` bytes, at the given pace."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "steps": ("INT",),
                "size": ("INT", {"default": 0}),
                "pause": ("FLOAT", {"default": 0.0}),
            }
        }

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> float:
        return float("nan")

    def run(self, steps: int, size: int, pause: float) -> dict[str, Any]:
        preview = PreviewImage(b"\xff" * size, "JPEG") if size else None
        for step in range(steps):
            progress(step + 1, steps, preview)
            if pause:
                time.sleep(pause)
        progress_text("done")
        return {"ui": {"text": ["done"]}}


class Waits(Show):
    """Runs until it is interrupted, or ten seconds."""

    def run(self, value: int) -> dict[str, Any]:
        for _ in range(1000):
            check_interrupted()
            time.sleep(0.01)
        return {"ui": {"text": ["waited"]}}


NODES = [Number, Show, Fails, Steps, Waits]


@dataclass(eq=False)
class Socket:
    """A WebSocket client."""

    ws: aiohttp.ClientWebSocketResponse

    async def next(self, timeout: float = 10) -> Any:
        """The next message: a dict, or the bytes of a binary one."""
        message = await self.ws.receive(timeout)
        if message.type is aiohttp.WSMsgType.TEXT:
            return json.loads(message.data)
        assert message.type is aiohttp.WSMsgType.BINARY, message
        return message.data

    async def until(self, type: str, **data: Any) -> list[Any]:
        """All messages up to the first of this type whose data has these values."""
        messages = []
        while True:
            message = await self.next()
            messages.append(message)
            if (
                isinstance(message, dict)
                and message["type"] == type
                and all(message["data"].get(key) == value for key, value in data.items())
            ):
                return messages

    async def end_of(self, job_id: str) -> list[Any]:
        """All messages until the job has ended."""
        return await self.until("executing", node=None, prompt_id=job_id)


@dataclass
class Server:
    """A running server and a client of it."""

    app: App
    http: HttpServer
    client: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return self.http.url

    @staticmethod
    def single(class_type: str, **inputs: Any) -> dict[str, Any]:
        """A prompt of one node."""
        return {"1": {"class_type": class_type, "inputs": inputs}}

    @staticmethod
    def steps(steps: int, size: int = 0, pause: float = 0) -> dict[str, Any]:
        """A prompt that makes progress, with previews of `size` bytes."""
        return Server.single("Steps", steps=steps, size=size, pause=pause)

    @staticmethod
    def show(value: Any = 1) -> dict[str, Any]:
        """A prompt that shows a number."""
        return {
            "1": {"class_type": "Number", "inputs": {"value": value}},
            "2": {"class_type": "Show", "inputs": {"value": ["1", 0]}},
        }

    @staticmethod
    def picture(
        format: str = "PNG", mode: str = "RGB", color: Any = "red", size: tuple[int, int] = (32, 16)
    ) -> bytes:
        """An encoded picture."""
        file = stdio.BytesIO()
        Image.new(mode, size, color).save(file, format)
        return file.getvalue()

    @asynccontextmanager
    async def socket(self, client_id: str | None = None, **flags: Any) -> AsyncIterator[Socket]:
        """Connect a WebSocket, past its greeting; `flags` are announced as feature flags."""
        query = {} if client_id is None else {"clientId": client_id}
        async with self.client.ws_connect("/ws", params=query, max_msg_size=0) as ws:
            socket = Socket(ws)
            greeting = await socket.next()
            assert greeting["type"] == "status"
            if flags:
                await ws.send_json({"type": "feature_flags", "data": flags})
                await socket.until("feature_flags")
            yield socket

    @property
    def sockets(self) -> set[web.WebSocketResponse]:
        """The WebSockets whose handlers run."""
        assert self.http._runner is not None and self.http._runner.app is not None
        return self.http._runner.app[SOCKETS]

    async def until(self, condition: Callable[[], Any]) -> None:
        """Let the server run until this is so; fails after ten seconds."""
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0)

    async def get(self, path: str, **options: Any) -> tuple[int, Any]:
        """Status and JSON (or bytes) of a GET."""
        return await self.request("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        if body is not None:
            options["json"] = body
        return await self.request("POST", path, **options)

    async def request(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        async with self.client.request(method, path, **options) as response:
            data = await response.read()
            if response.content_type == "application/json":
                return response.status, json.loads(data)
            return response.status, data

    async def submit(self, prompt: dict[str, Any], **options: Any) -> str:
        """Queue a prompt; returns its id."""
        status, answer = await self.post("/prompt", {"prompt": prompt, **options})
        assert status == 200, answer
        return answer["prompt_id"]

    async def run(self, prompt: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Queue a prompt and wait for its history entry."""
        return await self.until_ended(await self.submit(prompt, **options))

    async def until_ended(self, job_id: str, **options: Any) -> dict[str, Any]:
        """Wait for a job's history entry."""
        for _ in range(1000):
            _, history = await self.get(f"/history/{job_id}", **options)
            if job_id in history:
                return history[job_id]
            await asyncio.sleep(0.01)
        raise AssertionError(f"job {job_id} does not end")

    async def upload(self, data: bytes, name: str = "picture.png", **fields: str) -> tuple[int, Any]:
        """Upload a file to the input folder or wherever the fields say."""
        form = aiohttp.FormData(quote_fields=False)
        form.add_field("image", data, filename=name, content_type="application/octet-stream")
        for field, value in fields.items():
            form.add_field(field, value)
        return await self.request("POST", "/upload/image", data=form)


@asynccontextmanager
async def serving(base: Path, plugins: list[object] | None = None, **http: Any) -> AsyncIterator[Server]:
    """A server with its folders under `base`; `http` are settings of the plugin."""
    loaded = Plugins()
    loaded.register(comfyk_http.plugin, "http")
    for index, plugin in enumerate(plugins or []):
        loaded.register(plugin, f"plugin{index}")
    overrides: dict[str, Any] = {"folders.base": str(base), "http.port": 0}
    overrides |= {f"http.{key}": value for key, value in http.items()}
    app = App(load_settings(loaded, overrides=overrides), loaded)
    for node in NODES:
        app.nodes.add(node)
    async with app:
        await app.serve()
        server = server_of(app)
        async with aiohttp.ClientSession(server.url) as client:
            yield Server(app, server, client)


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """`await start(plugins=[...], cors_origin="*")` starts a server with these settings."""
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> Server:
            return await stack.enter_async_context(serving(tmp_path, **options))

        yield start


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """A server with the default settings."""
    async with serving(tmp_path) as server:
        yield server


@pytest.fixture
def new_id() -> str:
    return str(uuid.uuid4())


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Servers run on the loop that `comfyk start` gives them."""
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return {"asyncio": asyncio.new_event_loop}
    return {"uvloop": uvloop.new_event_loop}
