"""A JSON body is limited in what it makes of itself, not in its bytes alone."""

from __future__ import annotations

import json
import random
import string
import time
from typing import Any

import psutil
import pytest
from comfyk_http.json_size import holds_more_values

BODIES = {
    "nodes": b'{"prompt": {%s}}' % b",".join(b'"%d":{}' % n for n in range(3000)),
    "numbers": b'{"prompt": [%s]}' % b",".join([b"0"] * 3000),
    "lists": b'{"prompt": ' + b"[[]" + b",[]" * 3000 + b"]}",
    "strings": json.dumps({"prompt": [",", '"', "\\", "a"] * 1000}).encode(),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/prompt"),
        ("POST", "/queue"),
        ("POST", "/history"),
        ("POST", "/interrupt"),
        ("POST", "/free"),
        ("POST", "/jobs/cancel"),
        ("POST", "/settings"),
        ("POST", "/api/settings/x"),
        ("POST", "/users"),
        ("PATCH", "/internal/logs/subscribe"),
    ],
)
async def test_a_body_of_too_many_values_is_refused(start: Any, body: bytes, method: str, path: str) -> None:
    server = await start(max_json_values=2000)
    status, answer = await server.request(method, path, data=body)
    assert status == 413
    assert "http.max_json_values" in json.dumps(answer)


async def test_text_is_no_structure(start: Any) -> None:
    server = await start(max_json_values=1000)
    text = '{"a": [1, 2], "b\\": {}}, ' * 1000
    assert (await server.post("/settings", {"x": text, "y": [text, {"z": "\\"}]}))[0] == 200
    assert (await server.get("/settings/x"))[1] == text


def count(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(map(count, value.values()))
    return 1 + sum(map(count, value)) if isinstance(value, list) else 1


def test_values_are_counted_as_parsing_would() -> None:
    chance = random.Random(7)

    def make(depth: int) -> Any:
        kind = chance.randrange(6 if depth else 4)
        if kind == 0:
            return chance.random()
        if kind < 4:
            return "".join(chance.choices(string.printable + '",\\[]{}:é', k=chance.randrange(12)))
        if kind == 4:
            return [make(depth - 1) for _ in range(chance.randrange(5))]
        return {f'k{n}",{{\\': make(depth - 1) for n in range(chance.randrange(5))}

    for _ in range(300):
        value = [make(6) for _ in range(6)]
        values = count(value)
        for indent, ascii_only in ((None, True), (1, False)):
            text = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
            # An empty list or object has no comma: such may count for one more.
            assert holds_more_values(text, values // 3)
            assert not holds_more_values(text, 2 * values)


async def test_a_hundred_megabytes_of_zeros_cost_no_memory_and_hold_up_nobody(server: Any) -> None:
    body = b"[" + b"0," * 40_000_000 + b"0]"
    before = psutil.Process().memory_info().rss
    began = time.perf_counter()
    status, answer = await server.request("POST", "/prompt", data=body)
    assert (status, answer["error"]["type"]) == (413, "too_many_values")
    assert time.perf_counter() - began < 5
    assert psutil.Process().memory_info().rss - before < 400 * 1024**2
