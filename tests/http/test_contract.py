"""Nonsense is answered as ComfyUI's API says: with 4xx where it documents one, else by leaving the nonsense out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from comfyk import hookimpl
from yarl import URL

FACTS: dict[str, Any] = json.loads(Path(__file__).with_name("comfyui_api.json").read_text())
OPERATIONS = [key for key, facts in FACTS.items() if "answers" in facts and key != "GET /ws"]
"""All but the asset operations, which another plugin serves, and the WebSocket's, which an ordinary request cannot
open: 101 is the one answer that its description knows, and it is none to a request that asks for no upgrade."""

TEXTS = (
    "",
    "0",
    "-1",
    "x",
    "null",
    "true",
    "1.5",
    "9" * 40,
    "\x00",
    "..",
    "../x",
    "ü\n",
    "[object Object]",
    "a" * 300,
)
JUNK = (b"", b" ", b"\x00", b"{", b"\xff", b"null", b"[]", b"0", b'"x"', b"{}", b"[" * 60 + b"]" * 60)
VALUES = (None, True, 0, -1, 1e300, 1.5, "", "x", [], {}, [{}], {"a": 1}, ["\x00"])


def addresses(server: Any, path: str, parameters: list[Any]) -> Iterator[URL]:
    """The operation's address with nonsense in each parameter in turn, and in all of them."""
    names = [name for name, place, _ in parameters if place != "header"]
    for text in TEXTS:
        for name in names if len(names) > 1 else ():
            yield _address(server, path, parameters, {name: text})
        yield _address(server, path, parameters, dict.fromkeys(names, text))


def _address(server: Any, path: str, parameters: list[Any], values: dict[str, str]) -> URL:
    query = []
    for name, place, _ in parameters:
        if place == "path":
            # Nothing at all and `..` make it the address of something else.
            text = values.get(name, "x")
            path = path.replace(f"{{{name}}}", quote(text if text not in ("", "..") else "x", safe=""))
        elif place == "query" and name in values:
            query.append(f"{name}={quote(values[name])}")
    return URL(f"{server.url}{path}?{'&'.join(query)}", encoded=True)


def bodies(facts: dict[str, Any]) -> Iterator[bytes]:
    fields = list(facts.get("body", {}).get("application/json", {}))
    yield from JUNK
    for value in VALUES:
        for name in fields:
            yield json.dumps({name: value}).encode()
        yield json.dumps(dict.fromkeys(fields, value)).encode()


@pytest.mark.parametrize("key", OPERATIONS)
async def test_nonsense_gets_an_answer_that_is_documented(server: Any, key: str) -> None:
    facts = FACTS[key]
    method, _, path = key.partition(" ")
    known = {int(status) for status in facts["answers"]}
    await server.upload(b"x", "x")
    parameters, takes_body = facts["parameters"], "body" in facts
    sent = [(url, b"{}" if takes_body else None) for url in addresses(server, path, parameters)]
    if takes_body:
        sent += [(_address(server, path, parameters, {}), body) for body in bodies(facts)]
    for url, body in sent:
        async with server.client.request(method, url, data=body, allow_redirects=False) as response:
            text = await response.read()
            assert response.status in known, (url, body, text)
            if response.status == 200 and "application/json" in facts["answers"]["200"]:
                assert response.content_type == "application/json"
                json.loads(text)


@pytest.mark.parametrize(
    ("path", "body", "ignored"),
    [
        ("/queue", {"clear": {}, "delete": 5}, "clear, delete"),
        ("/queue", [], "body"),
        ("/history", {"clear": "maybe", "delete": [1]}, "clear, delete"),
        ("/free", {"free_memory": {}, "unload_models": True}, "free_memory"),
        ("/settings", "x", "body"),
    ],
)
async def test_what_is_left_out_is_named(server: Any, path: str, body: Any, ignored: str) -> None:
    entry = await server.run(server.show())
    async with server.client.post(path, json=body) as response:
        assert (response.status, response.headers["Comfyk-Ignored"]) == (200, ignored)
    assert list((await server.get("/history"))[1]) == [entry["prompt"][1]]
    assert await server.get("/settings") == (200, {})
    async with server.client.post(path, json={}) as response:
        assert "Comfyk-Ignored" not in response.headers


async def test_what_is_no_json_changes_nothing(server: Any) -> None:
    await server.post("/settings/a", 1)
    for path in ("/settings/a", "/settings", "/queue", "/history", "/free"):
        async with server.client.post(path, data=b'{"clear": true') as response:
            assert (response.status, response.headers["Comfyk-Ignored"]) == (200, "body")
    assert await server.get("/settings") == (200, {"a": 1})


async def test_what_only_this_server_takes_is_refused_when_it_is_wrong(server: Any) -> None:
    for body in ({"move": 5}, {"move": {}}, {"pause": "x"}, {"resume": []}):
        status, answer = await server.post("/queue", {**body, "clear": 5})
        assert (status, answer["error"]["type"]) == (400, "invalid_request")


async def test_only_a_plain_request_interrupts_everything(server: Any) -> None:
    async with server.socket() as ws:
        job_id = await server.submit(server.single("Waits", value=1))
        await ws.until("progress_state")
        for body in (b"[]", b"{", b"5", b'{"prompt_id": []}', b'{"prompt_id": {}}', b'{"prompt_id": "x"}'):
            assert (await server.post("/interrupt", data=body))[0] == 200
            assert [item[1] for item in (await server.get("/queue"))[1]["queue_running"]] == [job_id]
        assert (await server.post("/interrupt", {"prompt_id": None}))[0] == 200
        await ws.until("execution_interrupted", prompt_id=job_id)


class Device:
    """A plugin whose device has no index, as torch says of a CPU, and that does not know everything."""

    @hookimpl
    def comfyk_device_stats(self) -> list[dict[str, Any]]:
        return [{"name": "cpu", "type": "cpu", "index": None}, {"name": "gpu", "type": "cuda", "index": 1}]

    @hookimpl
    def comfyk_system_stats(self) -> dict[str, Any]:
        return {"installed_templates_version": None, "required_frontend_version": "1.2"}


async def test_the_stats_hold_no_null(start: Any) -> None:
    server = await start(plugins=[Device()])
    _, stats = await server.get("/system_stats")
    assert [device["index"] for device in stats["devices"]] == [0, 1]
    assert stats["system"]["required_frontend_version"] == "1.2"
    assert "installed_templates_version" not in stats["system"]


async def test_upload_fields_are_checked(server: Any) -> None:
    status, answer = await server.upload(b"x", type="models")
    assert (status, answer["error"]["extra_info"]["field"]) == (400, "type")
    assert (await server.upload(b"x", type=""))[1]["type"] == "input"
    form = aiohttp.FormData({"original_ref": '{"subfolder": ""}'})
    form.add_field("image", server.picture(), filename="mask.png")
    status, answer = await server.post("/upload/mask", data=form)
    assert (status, answer["error"]["extra_info"]["field"]) == (400, "original_ref.filename")
