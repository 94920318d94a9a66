"""A server with the worst packs and plugins: each fails by itself, under its name, and all else goes on."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

RAISES = {
    "exits": "raise SystemExit(0)",
    "interrupts": "raise KeyboardInterrupt",
    "panics": "raise type('PanicException', (BaseException,), {})('called `Option::unwrap()` on a `None` value')",
    "cancels": "import asyncio; raise asyncio.CancelledError",
    "closes": "raise GeneratorExit",
    "mute": "raise type('Mute', (BaseException,), {'__str__': lambda self: exit(0)})",
}
WAITS = {
    "imports_for_ever": "import time; time.sleep(1000)",
    "enters_for_ever": """
        import asyncio
        async def comfy_entrypoint():
            await asyncio.Event().wait()
        """,
    "stops_its_loop": """
        import asyncio
        async def comfy_entrypoint():
            asyncio.get_running_loop().stop()
            await asyncio.sleep(1)
        """,
}
NODE = """
{setup}
class Node:
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    CATEGORY = "test"
    @classmethod
    def INPUT_TYPES(cls):
        {schema}
        return {{"required": {{"x": ("INT",)}}}}
    {more}
    def run(self, x):
        {body}
        return {{"ui": {{"text": [x]}}}}
NODE_CLASS_MAPPINGS = {{"{name}": Node}}
"""


def node(name: str, *, setup: str = "", schema: str = "pass", more: str = "", body: str = "pass") -> str:
    return NODE.format(name=name, setup=setup, schema=schema, more=more, body=body)


class Packs:
    def __init__(self, base: Path) -> None:
        self.folder = base / "custom_nodes"
        self.folder.mkdir(exist_ok=True)

    def add(self, name: str, code: str, prestartup: str | None = None) -> None:
        (self.folder / name).mkdir()
        (self.folder / name / "__init__.py").write_text(textwrap.dedent(code))
        if prestartup is not None:
            (self.folder / name / "prestartup_script.py").write_text(textwrap.dedent(prestartup))


@pytest.fixture
def packs(tmp_path: Path) -> Packs:
    return Packs(tmp_path)


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[[str, str], str]:
    """`plugin("name", code)` makes an installed plugin; returns the folder to put on PYTHONPATH."""
    site = tmp_path / "site"
    site.mkdir()

    def add(name: str, code: str) -> str:
        (site / f"{name}.py").write_text(textwrap.dedent(code))
        info = site / f"{name}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[comfyk]\n{name} = {name}\n")
        return str(site)

    return add


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as session:
        yield session


async def post(session: aiohttp.ClientSession, server: Any, prompt: dict[str, Any]) -> tuple[int, Any]:
    async with session.post(server.url + "/prompt", json={"prompt": prompt}) as answer:
        return answer.status, await answer.json()


async def outcome(session: aiohttp.ClientSession, server: Any, prompt: dict[str, Any]) -> dict[str, Any]:
    """What became of a prompt, in its history entry."""
    status, told = await post(session, server, prompt)
    assert status == 200, told
    for _ in range(200):
        async with session.get(f"{server.url}/history/{told['prompt_id']}") as answer:
            if entry := (await answer.json()).get(told["prompt_id"]):
                return entry
        await asyncio.sleep(0.05)
    raise AssertionError("the job does not end")


def one(name: str, **inputs: Any) -> dict[str, Any]:
    return {"1": {"class_type": name, "inputs": {"x": 1, **inputs}}}


async def test_packs_that_fail_or_wait_for_ever_keep_nobody_from_anything(
    make_server, session, prompt, packs
) -> None:
    for name, code in RAISES.items():
        packs.add(name, code)
        packs.add(f"script_{name}", node(f"Script_{name}"), prestartup=code)
    for name, code in WAITS.items():
        packs.add(name, code)
    packs.add("script_waits", node("ScriptWaits"), prestartup="import time; time.sleep(1000)")
    server = make_server(COMFYK_NODES__LOAD_TIMEOUT="0.5")
    await server.start()
    async with session.get(server.url + "/system_stats") as answer:
        assert answer.status == 200
    async with session.get(server.url + "/object_info") as answer:
        nodes = await answer.json()
    assert "Nap" in nodes and "ScriptWaits" not in nodes
    assert {f"Script_{name}" for name in RAISES} <= nodes.keys()
    assert (await outcome(session, server, prompt("hello")))["status"]["completed"]
    log = "\n".join(server.log)
    for name in RAISES:
        assert f"pack {name} failed to load" in log
        assert f"pack script_{name}: its prestartup_script.py failed" in log
    assert "pack stops_its_loop failed to load" in log
    for name in ("imports_for_ever", "enters_for_ever", "script_waits"):
        assert f"pack {name} has not loaded in 0.5 s" in log
    assert await server.stop() == 0, "what does not return keeps no process alive"


async def test_clients_are_answered_while_packs_load_and_wait_for_what_they_bring(
    make_server, session, packs, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    wait = f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)\n"
    packs.add("slow", wait + node("Late"))
    server = make_server()
    await server.start()
    prompted = asyncio.create_task(outcome(session, server, one("Late")))
    async with session.get(server.url + "/system_stats") as answer:
        assert answer.status == 200
    async with session.get(server.url + "/queue") as answer:
        assert answer.status == 200
    assert not prompted.done()
    go.touch()
    assert (await prompted)["outputs"] == {"1": {"text": [1]}}
    async with session.get(server.url + "/object_info/Late") as answer:
        assert "Late" in await answer.json()


async def test_what_was_left_in_the_queue_waits_for_its_packs(make_server, session, packs, tmp_path) -> None:
    slow = tmp_path / "slow"
    packs.add(
        "slow",
        f"import pathlib, time\nif pathlib.Path({str(slow)!r}).exists(): time.sleep(1)\n" + node("Late"),
    )
    server = make_server()
    await server.start()
    async with session.post(server.url + "/queue", json={"pause": True}) as answer:
        assert answer.status == 200
    status, told = await post(session, server, one("Late"))
    assert status == 200
    await server.kill()
    slow.touch()
    await server.start()
    for _ in range(200):
        async with session.get(f"{server.url}/history/{told['prompt_id']}") as answer:
            if entry := (await answer.json()).get(told["prompt_id"]):
                break
        await asyncio.sleep(0.05)
    assert entry["status"]["completed"], entry


@pytest.mark.parametrize("kind", RAISES)
async def test_methods_of_nodes_fail_alone(
    make_server, session, prompt, packs, tmp_path: Path, kind: str
) -> None:
    code = RAISES[kind]
    bad = tmp_path / "bad"
    when = f"import pathlib\n        if pathlib.Path({str(bad)!r}).exists():\n            {code}"
    packs.add("schema", node("Schema", schema=when))
    packs.add("check", node("Check", more=f"@classmethod\n    def VALIDATE_INPUTS(cls, x):\n        {code}"))
    packs.add(
        "acheck", node("ACheck", more=f"@classmethod\n    async def VALIDATE_INPUTS(cls, x):\n        {code}")
    )
    packs.add("changed", node("Changed", more=f"@classmethod\n    def IS_CHANGED(cls, x):\n        {code}"))
    packs.add(
        "achanged", node("AChanged", more=f"@classmethod\n    async def IS_CHANGED(cls, x):\n        {code}")
    )
    packs.add("runs", node("Runs", body=code))
    server = make_server()
    await server.start()
    async with session.get(server.url + "/object_info") as answer:
        assert "Schema" in await answer.json()
    bad.touch()
    async with session.get(server.url + "/object_info") as answer:
        assert answer.status == 200
        assert "Schema" not in await answer.json()
    for name in ("Schema", "Check", "ACheck"):
        status, told = await post(session, server, one(name))
        assert status == 400, told
        assert told["node_errors"]["1"]["errors"][0]["type"] == "exception_during_validation"
    for name in ("Changed", "AChanged"):
        entry = await outcome(session, server, one(name))
        assert entry["status"]["completed"], entry
    assert (await outcome(session, server, one("Runs")))["status"]["status_str"] == "error"
    assert (await outcome(session, server, prompt("hello")))["status"]["completed"]
    assert await server.stop() == 0


async def test_what_a_node_shows_is_made_json(make_server, session, prompt, packs) -> None:
    ui = """
class Exits:
    def __str__(self):
        raise SystemExit(0)
    __repr__ = __str__
SHOWN = {
    "huge": [10**6000, {"deep": 10**6000}],
    "odd": [Exits(), {Exits(): 1}, float("nan"), b"bytes", {1, 2}, object],
    "text": ["kept"],
}
"""
    packs.add("shows", node("Shows", setup=ui, body="return {'ui': SHOWN}"))
    packs.add("floods", node("Floods", body="return {'ui': {'text': ['x' * 40_000_000]}}"))
    packs.add("fails", node("Fails", setup=ui, body="raise ValueError(10**3000, 'y' * 10_000_000)"))
    server = make_server()
    await server.start()
    entry = await outcome(session, server, one("Shows"))
    shown = entry["outputs"]["1"]
    assert shown["text"] == ["kept"] and shown["huge"][0] == "<a number of 19,932 bits>"
    entry = await outcome(session, server, one("Floods"))
    assert entry["status"]["completed"] and "left out" in entry["outputs"]["1"]["text"][0]
    entry = await outcome(session, server, one("Fails"))
    assert len(str(entry)) < 200_000
    async with session.get(server.url + "/jobs") as answer:
        jobs = (await answer.json())["jobs"]
    assert len(jobs) == 3
    for job in jobs:
        async with session.get(f"{server.url}/jobs/{job['id']}") as answer:
            assert answer.status == 200, await answer.text()
    assert (await outcome(session, server, prompt("hello")))["status"]["completed"]


async def test_a_node_that_ends_its_loop_leaves_the_queue_running(
    make_server, session, prompt, packs
) -> None:
    packs.add("stops", node("Stops", body="import asyncio; asyncio.get_running_loop().stop()"))
    packs.add(
        "exits", node("Exits", body="import asyncio, sys; asyncio.get_running_loop().call_soon(sys.exit, 0)")
    )
    server = make_server()
    await server.start()
    entry = await outcome(session, server, one("Stops"))
    assert entry["status"]["status_str"] == "error"
    assert "event loop that nodes run on was ended by this node" in str(entry["status"]["messages"])
    await outcome(session, server, one("Exits"))
    for text in ("one", "two"):
        assert (await outcome(session, server, prompt(text)))["status"]["completed"]
    assert await server.stop() == 0


async def test_a_node_that_does_not_answer_stops_nobody(make_server, session, prompt, packs) -> None:
    sleep = "import time; time.sleep(1000)"
    packs.add("schema", node("Schema", schema=sleep))
    packs.add("check", node("Check", more=f"@classmethod\n    def VALIDATE_INPUTS(cls, x):\n        {sleep}"))
    server = make_server()
    await server.start()
    stuck = [asyncio.create_task(post(session, server, one(name))) for name in ("Check", "Schema") * 6]
    async with session.get(server.url + "/object_info") as answer:
        nodes = await answer.json()
    assert "Check" in nodes and "Schema" not in nodes
    assert (await outcome(session, server, prompt("hello")))["status"]["completed"]
    assert not any(task.done() for task in stuck)
    while not any("what checks the inputs of node Check has not returned" in line for line in server.log):
        await asyncio.sleep(0.1)
    assert any(
        "node Schema is left out of object_info: its schema does not return" in line for line in server.log
    )
    for task in stuck:
        task.cancel()
    await asyncio.gather(*stuck, return_exceptions=True)
    assert await server.stop() == 0


@pytest.mark.parametrize("kind", RAISES)
async def test_plugins_fail_alone(make_server, session, prompt, plugin, kind: str) -> None:
    code = RAISES[kind]
    site = plugin("bad_import", code)
    plugin(
        "bad_hooks",
        f"""
        from aiohttp import web
        from comfyk import hookimpl

        def fail(*_):
            {code}

        async def fails(request):
            fail()

        @hookimpl
        def comfyk_register_nodes(app):
            fail()

        @hookimpl
        async def comfyk_startup(app):
            fail()

        @hookimpl
        def comfyk_event(app, event):
            fail()

        @hookimpl
        async def comfyk_job_finished(app, job):
            fail()

        @hookimpl
        def comfyk_feature_flags(app):
            fail()

        @hookimpl
        def comfyk_register_routes(app):
            return [web.get("/bad", fails)]

        @hookimpl
        async def comfyk_shutdown(app):
            fail()
        """,
    )
    server = make_server(PYTHONPATH=site)
    await server.start()
    async with session.get(server.url + "/bad") as answer:
        assert answer.status == 500
    async with session.get(server.url + "/features") as answer:
        assert answer.status == 200
    assert (await outcome(session, server, prompt("hello")))["status"]["completed"]
    assert await server.stop() == 0
    log = "\n".join(server.log)
    assert "plugin bad_import failed in import" in log
    for hook in ("register_nodes", "startup", "event", "job_finished", "feature_flags", "shutdown"):
        assert f"plugin bad_hooks failed in comfyk_{hook}" in log


async def test_the_server_outlives_what_would_end_its_loop(make_server, session, prompt, plugin) -> None:
    site = plugin(
        "stray",
        """
        import asyncio, sys
        from comfyk import hookimpl

        async def leave(error):
            raise error

        def interrupt():
            raise KeyboardInterrupt

        tasks = []

        @hookimpl
        async def comfyk_serve(app):
            loop = asyncio.get_running_loop()
            loop.call_soon(sys.exit, 0)
            loop.call_later(0.01, interrupt)
            loop.call_later(0.02, loop.stop)
            tasks.append(loop.create_task(leave(SystemExit(0))))
            app.events.call(lambda: sys.exit(0))
        """,
    )
    server = make_server(PYTHONPATH=site)
    await server.start()
    assert (await outcome(session, server, prompt("hello")))["status"]["completed"]
    log = "\n".join(server.log)
    assert log.count("something would have ended the program, which goes on") >= 2
    assert "something stopped the event loop, which goes on" in log
    assert await server.stop() == 0


async def test_an_end_that_nobody_asked_for_has_a_code_and_a_reason(make_server, plugin) -> None:
    site = plugin(
        "ends",
        """
        import sys
        from comfyk import hookimpl

        @hookimpl
        async def comfyk_serve(app):
            sys.exit(0)
        """,
    )
    server = make_server(PYTHONPATH=site)
    with pytest.raises(RuntimeError, match=r"ended by SystemExit: 0, which nobody asked for"):
        await server.start()
    assert await server.died() == 1


async def test_a_shutdown_that_waits_for_ever_is_bounded(make_server, plugin) -> None:
    site = plugin(
        "stays",
        """
        import asyncio, threading, time
        from comfyk import hookimpl

        @hookimpl
        async def comfyk_shutdown(app):
            threading.Thread(target=time.sleep, args=(1000,)).start()  # keeps the interpreter from ending
        """,
    )
    server = make_server(PYTHONPATH=site)
    await server.start()
    assert await asyncio.wait_for(server.stop(), 20) == 0
    assert any("the process has not ended in 5 s" in line for line in server.log)
