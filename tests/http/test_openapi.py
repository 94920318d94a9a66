"""The OpenAPI document: whole, valid, and with every fact of ComfyUI's API (`comfyui_api.json`)."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfyk_http.plugin
import pytest
from comfyk import hookimpl
from comfyk.api import Answer, operation
from comfyk.app import App
from comfyk.plugins import Plugins
from comfyk.settings import load_settings
from comfyk_http.openapi import document
from comfyk_http.routing import described, gather
from pydantic import BaseModel

FACTS: dict[str, Any] = json.loads(Path(__file__).with_name("comfyui_api.json").read_text())
"""By method and path: the operation's id, parameters (name, place, required), and of the bodies and answers the
fields, with whether each is required. Of the asset operations, which another plugin serves, only the id."""

_NOT_COMFYUIS = {"GET /api/system_stats": {"required_frontend_version"}}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    plugins = Plugins()
    plugins.register(comfyk_http.plugin, "http")
    app = App(load_settings(plugins, overrides={"folders.base": str(tmp_path_factory.mktemp("x"))}), plugins)
    return document(described(gather(app)))


def resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def fields(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, bool]:
    """The fields of an object, or of a list's or a map's members, with whether they are required."""
    schema = resolve(document, schema)
    if "anyOf" in schema:
        return {name: value for one in schema["anyOf"] for name, value in fields(document, one).items()}
    if schema.get("type") == "array":
        return fields(document, schema.get("items", {}))
    if "properties" in schema:
        return {name: name in schema.get("required", ()) for name in schema["properties"]}
    if isinstance(schema.get("additionalProperties"), dict):
        return fields(document, schema["additionalProperties"])
    return {}


def operation_of(document: dict[str, Any], key: str) -> dict[str, Any]:
    method, _, path = key.partition(" ")
    return document["paths"][path][method.lower()]


def test_there_are_all_operations() -> None:
    assert len(FACTS) == 65


@pytest.mark.parametrize("key", FACTS)
def test_an_operation_has_its_id_and_parameters(written: dict[str, Any], key: str) -> None:
    found, facts = operation_of(written, key), FACTS[key]
    assert found["operationId"] == facts["id"]
    parameters = {(one["name"], one["in"]): one["required"] for one in found.get("parameters", ())}
    for name, place, required in facts.get("parameters", ()):
        assert parameters[name, place] is required


@pytest.mark.parametrize("key", FACTS)
def test_an_operation_takes_the_same_body(written: dict[str, Any], key: str) -> None:
    found, facts = operation_of(written, key), FACTS[key]
    for type, expected in facts.get("body", {}).items():
        assert found["requestBody"]["required"] is facts["body_required"]
        has = fields(written, found["requestBody"]["content"][type]["schema"])
        assert expected.keys() <= has.keys()
        assert {name for name in expected if expected[name]} == {name for name in has if has[name]}


@pytest.mark.parametrize("key", FACTS)
def test_an_operation_answers_the_same(written: dict[str, Any], key: str) -> None:
    found, facts = operation_of(written, key), FACTS[key]
    for status, contents in facts.get("answers", {}).items():
        answer = found["responses"][status]
        for type, expected in contents.items():
            assert type in answer["content"]
            has = fields(written, answer["content"][type]["schema"])
            assert {name for name in expected if expected[name]} <= {name for name in has if has[name]}
            assert expected.keys() - _NOT_COMFYUIS.get(key, set()) - _optional(key) <= has.keys()


@pytest.mark.parametrize("key", [key for key in FACTS if "answers" in FACTS[key] and key != "GET /ws"])
def test_an_operation_has_no_status_of_its_own(written: dict[str, Any], key: str) -> None:
    """Beside those of ranges and of what the client has already, which it asks for by headers, and of `wait`."""
    found = set(operation_of(written, key)["responses"]) - {"4XX", "5XX", "206", "304"}
    found -= {"202"} if key == "POST /api/prompt" else set()
    assert found == set(FACTS[key]["answers"])


def _optional(key: str) -> set[str]:
    # What the job store's lines hold is not known to the document: they may have any further field.
    return (
        {"error"} if key == "POST /api/prompt" else {"execution_error"} if key == "GET /api/jobs" else set()
    )


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for one in value.values():
            yield from references(one)
    elif isinstance(value, list):
        for one in value:
            yield from references(one)


def test_the_document_is_sound(written: dict[str, Any]) -> None:
    for reference in references(written):
        assert reference.rpartition("/")[2] in written["components"]["schemas"]
    ids = [one["operationId"] for path in written["paths"].values() for one in path.values()]
    assert len(ids) == len(set(ids))
    for path in written["paths"].values():
        for one in path.values():
            assert one["summary"] and one["description"] and one["tags"]


async def test_it_is_served_and_shown(server: Any) -> None:
    _, served = await server.get("/openapi.json")
    assert (await server.get("/api/openapi.json"))[1] == served
    assert served["openapi"] == "3.1.0"
    async with server.client.get("/docs") as response:
        page = await response.text()
        assert response.content_type == "text/html"
    assert "<script" not in page
    assert "http://" not in page and "https://" not in page
    for path in served["paths"]:
        assert f"<code>{path}</code>" in page


class Question(BaseModel):
    word: str
    times: int = 1


class Sent(BaseModel):
    number: int


class Echo:
    """A plugin with described routes."""

    @hookimpl
    def comfyk_register_routes(self) -> list[Any]:
        from aiohttp import web

        @operation("echo", "Say it again", tag="echo", answers={200: Answer("It", dict[str, int])})
        async def echo(request: web.Request, query: Question, body: Sent) -> web.Response:
            """As often as you like."""
            return web.json_response({query.word * query.times: body.number})

        return [web.post("/echo", echo)]


async def test_a_plugin_describes_its_routes(start: Any) -> None:
    server = await start(plugins=[Echo()])
    assert await server.post("/api/echo?word=ab&times=2", {"number": 3}) == (200, {"abab": 3})
    assert (await server.post("/echo?word=ab&times=x", {"number": 3}))[1]["error"]["extra_info"] == {
        "field": "times"
    }
    assert (await server.post("/echo?word=ab", {"number": "x"}))[0] == 400
    described = (await server.get("/openapi.json"))[1]["paths"]["/api/echo"]["post"]
    assert described["description"] == "As often as you like."
    assert [one["name"] for one in described["parameters"]] == ["word", "times"]


def test_the_command_prints_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "comfyk", "--base-directory", str(tmp_path), "openapi"]
    printed = subprocess.run(command, capture_output=True, check=True, timeout=60)
    assert json.loads(printed.stdout)["paths"]["/api/prompt"]["post"]["operationId"] == "executePrompt"


async def test_the_server_does_what_the_document_says(server: Any, tmp_path: Path) -> None:
    """Schemathesis sends what the document allows and what it does not, and checks the answers against it."""
    pytest.importorskip("schemathesis")
    await server.run(server.show())
    tested = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).with_name("schemathesis")), "run", f"{server.url}/openapi.json"),
        *("--checks", "not_a_server_error,status_code_conformance,content_type_conformance"
          ",response_schema_conformance"),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", "15", "--exclude-tag", "assets"),
        *("--generation-database", "none", "--seed", "1", "--no-color"),
        cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(tested.communicate(), 300)
    assert tested.returncode == 0, output.decode(errors="replace")[-6000:]
