"""The files that jobs write: previews go with their jobs and stay within bounds; the rest goes when it is asked for."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

PACK = """
import json
import os
import time

from comfyk import current_app


class Paint:
    '''Writes a file of so many kilobytes, and shows it.'''

    INPUT_TYPES = classmethod(lambda cls: {"required": {
        "type": ("STRING",), "name": ("STRING",), "kb": ("INT", {"max": 10000})
    }})
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    def run(self, type, name, kb):
        path = current_app().folders.directory(type) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1000 * kb))
        item = {"filename": path.name, "subfolder": os.path.dirname(name), "type": type}
        return {"ui": {"images": [item]}}


class Claim(Paint):
    '''Shows what it is told, and writes nothing.'''

    INPUT_TYPES = classmethod(lambda cls: {"required": {"shown": ("STRING",)}})

    def run(self, shown):
        return {"ui": json.loads(shown)}


NODE_CLASS_MAPPINGS = {"Paint": Paint, "Claim": Claim}
"""
Prompt = dict[str, Any]


def paint(name: str, type: str = "temp", kb: int = 1) -> Prompt:
    return {"1": {"class_type": "Paint", "inputs": {"type": type, "name": name, "kb": kb}}}


def claim(**shown: Any) -> Prompt:
    return {"1": {"class_type": "Claim", "inputs": {"shown": json.dumps(shown)}}}


class Client:
    def __init__(self, session: aiohttp.ClientSession, url: str, base: Path) -> None:
        self.session, self.url, self.base = session, url, base

    async def post(self, path: str, body: Any, user: str | None = None) -> Any:
        headers = {} if user is None else {"Comfy-User": user}
        async with self.session.post(self.url + path, json=body, headers=headers) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def run(self, prompt: Prompt, user: str | None = None) -> str:
        """The id of a job that has ended."""
        job_id = (await self.post("/prompt", {"prompt": prompt}, user))["prompt_id"]
        headers = {} if user is None else {"Comfy-User": user}
        async with asyncio.timeout(30):
            while True:
                async with self.session.get(f"{self.url}/history/{job_id}", headers=headers) as response:
                    entry = (await response.json()).get(job_id)
                if entry is not None:
                    assert entry["status"]["status_str"] == "success", entry
                    return job_id
                await asyncio.sleep(0.01)

    def there(self, folder: str = "temp") -> set[str]:
        root = self.base / folder
        return {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()}

    async def until(self, *there: str) -> None:
        """Wait until just these are in the temp folder."""
        for _ in range(400):
            if (found := self.there()) == set(there):
                return
            await asyncio.sleep(0.05)
        assert found == set(there)


@pytest.fixture
async def start(
    make_server: Callable[..., Any], session: aiohttp.ClientSession, tmp_path: Path
) -> Callable[..., Any]:
    """`client = await start("--multi-user", COMFYK_X="...")`: a server with the nodes Paint and Claim."""

    async def start(*arguments: str, **environment: str) -> Client:
        server = make_server(COMFYK_PLUGINS__DISABLED='["core-nodes"]', **environment)
        (tmp_path / "custom_nodes/paint.py").write_text(PACK)
        await server.start(*arguments)
        client = Client(session, server.url, tmp_path)
        client.server = server  # type: ignore[attr-defined]
        return client

    return start


def put(path: Path, hours: float = 0, size: int = 10) -> Path:
    """A file that was last touched so many hours ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    then = time.time() - hours * 3600
    os.utime(path, (then, then))
    return path


async def test_previews_last_as_long_as_a_job_in_the_history_shows_them(start: Callable[..., Any]) -> None:
    client = await start(COMFYK_STORAGE__HISTORY_LIMIT="3")
    first = await client.run(paint("a.png"))
    second = await client.run(paint("a.png"))  # its kept result
    await client.run(paint("sub/b.png"))
    kept = await client.run(paint("kept.png", "output"))
    assert client.there() == {"a.png", "sub/b.png"}  # the first has been trimmed, the second shows the same
    await client.post("/history", {"delete": [first, second]})
    await client.until("sub/b.png")
    await client.post("/history", {"delete": [kept]})
    for name in ("c.png", "d.png", "e.png"):
        await client.run(paint(name))
    await client.until("c.png", "d.png", "e.png")  # the limit is three
    await client.post("/history", {"clear": True})
    await client.until()
    assert client.there("output") == {"kept.png"}


async def test_a_start_clears_away_what_nobody_shows(start: Callable[..., Any], tmp_path: Path) -> None:
    client = await start()
    await client.run(paint("shown.png"))
    await client.run(paint("too_old.png"))
    nap = {
        "1": {"class_type": "Nap", "inputs": {"text": "", "seconds": 60.0}},
        "2": {"class_type": "Say", "inputs": {"text": ["1", 0]}},
    }
    await client.post("/prompt", {"prompt": nap})
    reads = {"1": {"class_type": "Say", "inputs": {"text": 'näh "er".png [temp]'}}}
    await client.post("/prompt", {"prompt": reads})
    await client.server.kill()
    temp = tmp_path / "temp"
    put(temp / "shown.png", hours=5)
    put(temp / "too_old.png", hours=50)
    put(temp / "left/behind.png", hours=2)
    put(temp / "fresh.png")
    put(temp / 'näh "er".png', hours=2)
    outside = put(tmp_path / "outside/precious.png", hours=2)
    (temp / "link").symlink_to(outside.parent)
    await client.server.start("--set", "folders.temp_max_age_days=2")
    await client.until("shown.png", "fresh.png", 'näh "er".png')
    assert (temp / "link").is_symlink()
    assert outside.exists()


async def test_servers_that_share_a_queue_keep_each_others_previews(
    make_server: Callable[..., Any],
    session: aiohttp.ClientSession,
    postgres: Callable[[], str],
    tmp_path: Path,
) -> None:
    shared = {
        "COMFYK_PLUGINS__DISABLED": '["core-nodes"]',
        "COMFYK_STORAGE__DATABASE_URL": postgres(),
        "COMFYK_FOLDERS__TEMP": str(tmp_path / "temp"),
    }
    clients = []
    for name in ("a", "b"):
        server = make_server(tmp_path / name, **shared)
        (tmp_path / name / "custom_nodes/paint.py").write_text(PACK)
        await server.start()
        clients.append(Client(session, server.url, tmp_path))
    a, b = clients
    await a.post("/queue", {"pause": True})
    of_b = await b.run(paint("of_b.png"))
    put(tmp_path / "temp/of_b.png", hours=2)
    put(tmp_path / "temp/nobodys.png", hours=2)
    await b.post("/queue", {"pause": True})
    await a.post("/queue", {"resume": True})
    await a.run(paint("of_a.png"))
    await a.until("of_a.png", "of_b.png")
    await a.post("/history", {"delete": [of_b]})
    await a.until("of_a.png")


async def test_there_is_never_more_than_the_settings_allow(start: Callable[..., Any]) -> None:
    client = await start("--set", "folders.temp_max_mb=1")
    for name in ("a.png", "b.png", "c.png", "d.png"):
        await client.run(paint(name, kb=400))
    await client.until("c.png", "d.png")
    await client.run(paint("huge.png", kb=2000))
    await client.until()


async def test_a_job_is_deleted_with_the_files_that_it_wrote(start: Callable[..., Any]) -> None:
    client = await start()
    await client.run(paint("other.png", "output"))
    saved = await client.run(
        paint("sub/a.png", "output") | {"2": paint("p.png")["1"], "3": paint("b.glb", "output")["1"]}
    )
    again = await client.run(paint("sub/a.png", "output"))  # its kept result: it wrote nothing
    assert await client.post("/history", {"delete": [again], "files": True}) == {"files_deleted": 0}
    unasked = await client.run(paint("unasked.png", "output"))
    await client.post("/history", {"delete": [unasked]})
    changed = await client.run(paint("changed.png", "output"))
    put(client.base / "output/changed.png", hours=-1)
    assert await client.post("/history", {"delete": [saved, changed], "files": True}) == {"files_deleted": 3}
    assert client.there() == set()
    assert client.there("output") == {"other.png", "unasked.png", "changed.png"}
    await client.run(paint("last.png", "output"))
    assert await client.post("/history", {"clear": True, "files": True}) == {"files_deleted": 2}
    assert client.there("output") == {"unasked.png", "changed.png"}


async def test_what_a_job_merely_names_stays(start: Callable[..., Any], tmp_path: Path) -> None:
    client = await start()
    untouched = [
        put(tmp_path / name)
        for name in (
            "secret.txt", "input/mine.png", "output/before.png", "output/sub/before.png", "temp/before.png",
            "outside/precious.png", "user/default/comfy.settings.json",
        )
    ]  # fmt: skip
    (tmp_path / "output/link").symlink_to(tmp_path / "outside")
    (tmp_path / "output/file_link.png").symlink_to(tmp_path / "secret.txt")
    await asyncio.sleep(0.1)  # the files are older than the job
    fresh = tmp_path / "fresh.txt"

    def item(filename: Any, subfolder: Any = "", type: Any = "output") -> dict[str, Any]:
        return {"filename": filename, "subfolder": subfolder, "type": type}

    job_id = await client.run(
        {
            "0": {"class_type": "Paint", "inputs": {"type": "output", "name": "../fresh.txt", "kb": 1}},
            **claim(
                images=[
                    item("before.png"), item("before.png", "sub"), item("before.png", type="temp"),
                    item("../secret.txt"), item("secret.txt", ".."), item("secret.txt", "sub/../.."),
                    item("..\\secret.txt"), item(str(tmp_path / "secret.txt")), item("secret.txt", str(tmp_path)),
                    item("precious.png", "link"), item("link/precious.png"), item("file_link.png"),
                    item("mine.png", type="input"), item("mine.png", "../input"),
                    item("../input/mine.png", type="temp"),
                    item("comfy.settings.json", "default", "user"), item("", "sub"), item("sub"), item("."), item(".."),
                    item("a\x00b"), item("x" * 5000), item(5), item(None), item(["before.png"]), item("before.png", 7),
                    item("before.png", type=["output"]), item("before.png", type=None), item("before.png", type={}),
                    "before.png", "../outside/model.glb", None, [item("before.png")], 3,
                ],
                text="no list", other={"filename": "before.png", "type": "output"},
            ),
        }
    )  # fmt: skip
    assert await client.post("/history", {"delete": [job_id], "files": True}) == {"files_deleted": 0}
    assert all(path.exists() for path in [*untouched, fresh])
    assert client.there("output") >= {"file_link.png", "before.png", "sub/before.png"}


async def test_files_are_deleted_with_the_users_own_jobs_alone(start: Callable[..., Any]) -> None:
    client = await start("--multi-user")
    ann, bob = [await client.post("/users", {"username": name}) for name in ("ann", "bob")]
    of_bob = await client.run(paint("bob.png", "output"), bob)
    await client.run(paint("ann.png", "output"), ann)
    body = {"delete": [of_bob], "files": True}
    assert await client.post("/history", body, ann) == {"files_deleted": 0}
    assert await client.post("/history", {"clear": True, "files": True}, ann) == {"files_deleted": 1}
    assert client.there("output") == {"bob.png"}
    assert await client.post("/history", body, bob) == {"files_deleted": 1}
