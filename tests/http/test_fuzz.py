"""Whatever clients send: an answer below 500 and without a traceback, and the server goes on."""

from __future__ import annotations

import asyncio
import json
import uuid
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import aiohttp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yarl import URL

FUZZ = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)

texts = st.text(max_size=20) | st.sampled_from(
    ["", "..", "../x", "\x00", "x" * 5000, "1", "Number", "Show", "[input]"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(texts, children, max_size=4),
    max_leaves=12,
)
links = st.tuples(st.sampled_from(["1", "2", "3", "x"]), st.integers(-2, 3)).map(list)
inputs = st.dictionaries(
    st.sampled_from(["value", "steps", "size", "pause"]) | texts, values | links, max_size=4
)
nodes = st.fixed_dictionaries(
    {"class_type": st.sampled_from(["Number", "Show", "Fails"]) | values, "inputs": inputs | values},
    optional={"_meta": values},
)
prompts = st.dictionaries(st.sampled_from(["1", "2", "3"]) | texts, nodes | values, max_size=5) | values
bodies = st.fixed_dictionaries(
    {"prompt": prompts},
    optional={
        "prompt_id": values | st.uuids().map(str),
        "number": values | st.floats(),
        "front": values,
        "client_id": values,
        "extra_data": values
        | st.fixed_dictionaries({"extra_pnginfo": values}, optional={"client_id": values}),
        "partial_execution_targets": values | st.lists(texts, max_size=3),
    },
)


async def fine(server: Any, method: str, path: str | URL, **options: Any) -> int:
    """Send a request, and see that the answer is none to be ashamed of."""
    async with server.client.request(method, path, **options) as response:
        text = await response.read()
    assert response.status < 500, (method, path, options, text)
    assert b"Traceback" not in text
    if response.status >= 400 and not _too_long(path):
        assert json.loads(text)["error"]
    return response.status


def _too_long(path: Any) -> bool:
    """Whether aiohttp itself refuses the request line, in plain text."""
    return len(str(path)) > 8000


async def alive(server: Any) -> None:
    assert (await server.get("/prompt"))[0] == 200
    for path in ("/queue", "/jobs", "/history"):
        await fine(server, "GET", path)


@FUZZ
@given(body=bodies | values)
async def test_prompts(server: Any, body: Any) -> None:
    await fine(server, "POST", "/prompt", data=json.dumps(body).encode())
    await alive(server)


@FUZZ
@given(body=bodies | values)
async def test_prompts_that_are_strict_json(server: Any, body: Any) -> None:
    """As above, but what JSON cannot hold is no obstacle to get to the validation."""
    text = json.dumps(body).replace("NaN", "1").replace("-Infinity", "-1e308").replace("Infinity", "1e999")
    await fine(server, "POST", "/prompt", data=text.encode())
    await alive(server)


@FUZZ
@given(data=st.binary(max_size=200), path=st.sampled_from(["/prompt", "/queue", "/free", "/upload/image"]))
async def test_bodies_of_any_bytes(server: Any, data: bytes, path: str) -> None:
    assert await fine(server, "POST", path, data=data) in (200, 400)


@FUZZ
@given(
    path=st.sampled_from(
        [
            "/queue",
            "/history",
            "/interrupt",
            "/free",
            "/jobs/cancel",
            "/api/jobs/x/cancel",
            "/users",
            "/settings",
        ]
    ),
    body=st.dictionaries(
        st.sampled_from(
            ["clear", "delete", "pause", "resume", "move", "prompt_id", "job_ids", "free_memory"]
        ),
        values | st.lists(st.uuids().map(str), max_size=2),
        max_size=4,
    )
    | values,
)
async def test_commands(server: Any, path: str, body: Any) -> None:
    await fine(server, "POST", path, data=json.dumps(body).encode())
    await alive(server)


@FUZZ
@given(
    path=st.sampled_from(
        [
            "/view",
            "/jobs",
            "/history",
            "/prompt",
            "/object_info",
            "/ws",
            "/extensions",
            "/userdata",
            "/v2/userdata",
            "/view_metadata/loras",
            "/users",
        ]
    ),
    query=st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "filename",
                    "type",
                    "subfolder",
                    "preview",
                    "channel",
                    "status",
                    "workflow_id",
                    "sort_by",
                    "sort_order",
                    "limit",
                    "offset",
                    "max_items",
                    "dir",
                    "recurse",
                    "full_info",
                    "split",
                    "path",
                    "token",
                ]
            )
            | texts,
            texts | st.integers().map(str),
        ),
        max_size=6,
    ),
)
async def test_queries(server: Any, path: str, query: list[tuple[str, str]]) -> None:
    line = "&".join(f"{quote(name)}={quote(value)}" for name, value in query)
    await fine(server, "GET", f"{path}?{line}")


@FUZZ
@given(
    prefix=st.sampled_from(
        [
            "/history/",
            "/jobs/",
            "/object_info/",
            "/models/",
            "/extensions/",
            "/extensions/x/",
            "/userdata/",
            "/settings/",
            "/global_subgraphs/",
            "/experiment/models/",
            "/experiment/models/preview/loras/0/",
            "/experiment/models/preview/loras/",
            "/workflow_templates/x/",
            "/internal/files/",
            "/",
        ]
    ),
    rest=texts,
)
async def test_paths(server: Any, prefix: str, rest: str) -> None:
    await fine(server, "GET", URL(server.url + prefix + quote(rest, safe=""), encoded=True))


@FUZZ
@given(
    name=texts,
    data=st.binary(max_size=100),
    fields=st.dictionaries(
        st.sampled_from(["type", "subfolder", "overwrite", "original_ref", "image", "x"]), texts, max_size=4
    ),
    path=st.sampled_from(["/upload/image", "/upload/mask"]),
)
async def test_uploads(server: Any, name: str, data: bytes, fields: dict[str, str], path: str) -> None:
    form = aiohttp.FormData()
    with suppress(ValueError):  # the client does not send control characters
        form.add_field("image", data, filename=name)
        for field, value in fields.items():
            form.add_field(field, value)
        await fine(server, "POST", path, data=form)
    base = server.app.folders.base
    assert {path.name for path in base.iterdir()} == {"input", "output", "temp", "user"}
    assert not list(base.rglob(".comfyk-upload-*"))


@FUZZ
@given(data=st.binary(max_size=300), boundary=st.sampled_from(["b", "", "b" * 80, '"', "b; b"]))
async def test_multipart_of_any_bytes(server: Any, data: bytes, boundary: str) -> None:
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    for body in (
        data,
        b"--b\r\n" + data,
        b'--b\r\nContent-Disposition: form-data; name="image"\r\n' + data + b"\r\n--b--",
    ):
        assert await fine(server, "POST", "/upload/image", data=body, headers=headers) in (200, 400)


@FUZZ
@given(
    messages=st.lists(
        texts
        | st.binary(max_size=50)
        | values.map(json.dumps)
        | st.builds(lambda data: json.dumps({"type": "feature_flags", "data": data}), values),
        max_size=5,
    )
)
async def test_websocket_messages(server: Any, messages: list[str | bytes]) -> None:
    client_id = uuid.uuid4().hex
    async with server.socket(client_id) as socket:
        for message in messages:
            if isinstance(message, bytes):
                await socket.ws.send_bytes(message)
            else:
                await socket.ws.send_str(message)
        job_id = await server.submit(server.show(), client_id=client_id)
        await socket.end_of(job_id)
    await alive(server)


@FUZZ
@given(data=st.binary(max_size=200))
async def test_raw_bytes_after_the_websocket_is_open(server: Any, data: bytes) -> None:
    host, port = server.http.addresses[0]
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" + data
    )
    assert (await reader.readline()).startswith(b"HTTP/1.1 101")
    writer.close()
    await alive(server)
