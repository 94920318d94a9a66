"""What `comfyk start` tells the one who started it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfyk
import pytest


async def until(condition: Callable[[], Any]) -> Any:
    async with asyncio.timeout(60):
        while not (found := condition()):
            await asyncio.sleep(0.02)
    return found


def line(log: list[str], text: str) -> str | None:
    return next((line for line in log if text in line), None)


async def test_a_first_start_says_what_runs_and_makes_the_folders(make_server: Any, tmp_path: Path) -> None:
    server = make_server(base=tmp_path / "there")
    server.base = tmp_path / "new" / "place"
    await server.start()
    await until(lambda: line(server.log, " GB of memory"))
    await until(lambda: line(server.log, " nodes; no packs"))
    log = server.log
    assert line(log, f"made the base directory {server.base}, which was not there")
    assert line(log, f"comfyk {comfyk.__version__} on Python 3.")
    assert line(log, f"base directory: {server.base}")
    assert re.search(r"plugins: .*core-nodes.*http.*storage", line(log, "plugins: ") or "")
    assert line(log, f"to stop it: Ctrl-C, or SIGTERM to {server.pid}")
    assert re.search(r"torch 2\.\d+\.\S+ on \w+", line(log, " GB of memory") or "")
    for folder in ("models/checkpoints", "models/loras", "custom_nodes", "input", "output"):
        assert (server.base / folder).is_dir(), folder
    assert await server.stop() == 0


async def test_models_of_a_folder_that_was_there_are_left_as_they_are(
    make_server: Any, tmp_path: Path
) -> None:
    (tmp_path / "models" / "vae").mkdir(parents=True)
    server = make_server()
    await server.start()
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["vae"]
    assert line(server.log, "made the base directory") is None


async def test_packs_that_failed_are_told_in_a_line_and_listed(
    make_server: Any, tmp_path: Path, comfyk: Any, session: Any
) -> None:
    packs = tmp_path / "custom_nodes"
    packs.mkdir()
    (packs / "lacks.py").write_text("import comfy_extras.nodes_nothing\n")
    (packs / "off.py.disabled").write_text("")
    server = make_server()
    await server.start()
    await until(lambda: line(server.log, "packs: 1 loaded, 1 failed"))
    why = "it needs ComfyUI's module comfy_extras"
    told = await until(lambda: line(server.log, f"pack lacks failed: {why}"))
    assert "which comfyk does not have; `comfyk plugin list` shows where" in told
    async with session.get(f"{server.url}/api/packs") as answer:
        listed = {one["name"]: one for one in (await answer.json())["packs"]}
    assert listed["lacks"]["state"] == "failed" and listed["lacks"]["reason"].startswith(why)
    assert "ModuleNotFoundError" in listed["lacks"]["error"]
    assert (listed["naps"]["state"], listed["naps"]["nodes"]) == ("loaded", ["Nap", "Say", "Die"])
    assert listed["off"]["state"] == "disabled"
    await server.kill()

    (packs / "fresh.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
    text = await asyncio.to_thread(lambda: comfyk("plugin", "list").stdout)
    assert re.search(rf"^lacks +failed +{why}", text, re.MULTILINE) and "import comfy_extras" in text
    assert re.search(r"^naps +loaded +3 nodes", text, re.MULTILINE)
    assert re.search(r"^off +disabled", text, re.MULTILINE)
    assert re.search(r"^fresh +new +loaded at the next start", text, re.MULTILINE)
    entries = json.loads(await asyncio.to_thread(lambda: comfyk("plugin", "list", "--json").stdout))
    kinds = {entry["name"]: entry["kind"] for entry in entries}
    assert kinds["http"] == "plugin" and kinds["lacks"] == "pack"


async def test_progress_refusals_and_ends_are_in_the_log(
    make_server: Any, session: Any, tmp_path: Path, prompt: Any
) -> None:
    (tmp_path / "custom_nodes").mkdir()
    (tmp_path / "custom_nodes" / "steps.py").write_text(
        "import time\nfrom comfyk import progress\n"
        "class Steps:\n"
        "    INPUT_TYPES = classmethod(lambda cls: {'required': {}})\n"
        "    RETURN_TYPES = ()\n    FUNCTION = 'run'\n    OUTPUT_NODE = True\n"
        "    def run(self):\n"
        "        for step in range(4):\n            progress(step + 1, 4)\n            time.sleep(0.05)\n"
        "        return {}\n"
        "NODE_CLASS_MAPPINGS = {'Steps': Steps}\n"
    )
    server = make_server()
    await server.start()
    bad = {"7": {"class_type": "Foo", "inputs": {}}}
    async with session.post(f"{server.url}/prompt", json={"prompt": bad}) as answer:
        assert answer.status == 400
    refused = await until(lambda: line(server.log, "refused a prompt: "))
    assert refused.endswith("Node 'Foo' not found. The custom node may not be installed. (Node ID '#7')")
    async with session.post(f"{server.url}/prompt", data=b"{") as answer:
        assert answer.status == 400
    await until(lambda: line(server.log, "refused a prompt: The request body is not valid JSON"))
    steps = {"1": {"class_type": "Steps", "inputs": {}}}
    async with session.post(f"{server.url}/prompt", json={"prompt": steps}) as answer:
        assert answer.status == 200
    await until(lambda: line(server.log, "Steps (1): 4 of 4, "))
    await until(lambda: line(server.log, "Prompt executed in "))
    async with session.get(f"{server.url}/internal/logs") as answer:
        panel = await answer.text()
    for text in ("refused a prompt: ", "Steps (1): 4 of 4, ", "base directory: "):
        assert text in panel


async def test_the_browser_is_opened_when_asked_for(make_server: Any, tmp_path: Path) -> None:
    browser, seen = tmp_path / "browser", tmp_path / "seen"
    browser.write_text(f'#!/bin/sh\necho "$1" > {seen}.new\nmv {seen}.new {seen}\n')
    browser.chmod(0o755)
    server = make_server(BROWSER=str(browser))
    await server.start("--auto-launch")
    await until(seen.exists)
    assert seen.read_text().strip() == server.url


async def test_without_a_web_ui_nothing_is_said_of_one(make_server: Any, tmp_path: Path) -> None:
    browser, seen = tmp_path / "browser", tmp_path / "seen"
    browser.write_text(f"#!/bin/sh\ntouch {seen}\n")
    browser.chmod(0o755)
    server = make_server(BROWSER=str(browser))
    await server.start("--auto-launch", "--set", "plugins.disabled=frontend,core-nodes")
    await until(lambda: line(server.log, "to stop it"))
    assert line(server.log, f"The API is at: {server.url}") and line(server.log, "GUI") is None
    assert await server.stop() == 0
    assert not seen.exists()


async def test_with_listen_the_addresses_of_the_network_are_told(make_server: Any) -> None:
    import psutil

    server = make_server()
    await server.start("--listen", "0.0.0.0")
    await until(lambda: line(server.log, "to stop it"))
    assert server.url.startswith("http://127.0.0.1:")
    own = [
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family.name == "AF_INET" and not address.address.startswith(("127.", "169.254."))
    ]
    if not own:
        pytest.skip("this machine is on no network")
    port = server.url.rpartition(":")[2]
    assert line(server.log, f"also at: http://{own[0]}:{port}")
    assert line(server.log, "also at: http://127.") is None


def test_an_error_names_its_class_once(comfyk: Any, tmp_path: Path) -> None:
    (tmp_path / "custom_nodes").mkdir()
    (tmp_path / "custom_nodes" / "raises.py").write_text(
        "class Raises:\n"
        "    INPUT_TYPES = classmethod(lambda cls: {'required': {'text': ('STRING',)}})\n"
        "    RETURN_TYPES = ()\n    FUNCTION = 'run'\n    OUTPUT_NODE = True\n"
        "    def run(self, text):\n        raise (ValueError(text) if text else ValueError)\n"
        "NODE_CLASS_MAPPINGS = {'Raises': Raises}\n"
    )
    for text, said in (
        ("", "Error: Raises (1): ValueError\n"),
        ("no", "Error: Raises (1): ValueError: no\n"),
    ):
        prompt = json.dumps({"1": {"class_type": "Raises", "inputs": {"text": text}}})
        assert said in comfyk("run", "-", stdin=prompt).stderr
    unknown = comfyk("run", "-", stdin='{"1": {"class_type": "Foo", "inputs": {}}}').stderr
    assert "may not be installed. (Node ID '#1')" in unknown


def test_plugin_new_tells_commands_that_work_in_this_environment(comfyk: Any, tmp_path: Path) -> None:
    import sys

    told = comfyk("plugin", "new", "hello").stdout
    assert f"{sys.executable} -m pip install -e './hello[test]'" in told
    assert f"{sys.executable} -m pytest ./hello" in told
