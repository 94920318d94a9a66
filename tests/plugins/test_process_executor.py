"""Jobs in child processes, three at a time, whose processes are killed at random."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path

import psutil
import pytest

STAMP = """
import os, time
from comfyk import current_app, progress

class Stamp:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"text": ("STRING",), "seconds": ("FLOAT",)}})
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    def run(self, text, seconds):
        for step in range(round(seconds * 100)):
            progress(step, round(seconds * 100))
            time.sleep(0.01)
        return {"ui": {"text": [text], "pid": [os.getpid()]}}

class Tell(Stamp):
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})

    def run(self):
        settings, folders = current_app().settings, current_app().folders
        names = sorted(type(settings).model_fields)
        told = [settings.execution.cache, str(settings.jobs.max_attempts), str(folders.output), *names]
        return {"ui": {"text": told}}

NODE_CLASS_MAPPINGS = {"Stamp": Stamp, "Tell": Tell}
"""


def stamp(text: str, seconds: float) -> dict:
    return {"1": {"class_type": "Stamp", "inputs": {"text": text, "seconds": seconds}}}


@pytest.fixture
async def server(make_server, installed, tmp_path: Path):
    server = make_server(PYTHONPATH=str(installed("process_executor")), COMFYK_JOBS__MAX_ATTEMPTS="50")
    (tmp_path / "custom_nodes" / "stamps.py").write_text(STAMP)
    await server.start("--set", "plugins.disabled=core-nodes,frontend")
    return server


async def post(session, server, text: str, seconds: float, **more) -> str:
    async with session.post(server.url + "/prompt", json={"prompt": stamp(text, seconds), **more}) as answer:
        assert answer.status == 200, await answer.text()
        return (await answer.json())["prompt_id"]


async def get(session, server, path: str):
    async with session.get(server.url + path) as answer:
        return await answer.json()


@pytest.fixture
def ended(receive):
    """`await ended(session, server, 3)`: the history, once so many jobs are in it."""

    async def ended(session, server, count: int) -> dict:
        async with session.ws_connect(server.url + "/ws?clientId=watch") as socket:
            while len(history := await get(session, server, "/history")) < count:
                await receive(socket, timeout=120)  # the server tells each time that one ends
        return history

    return ended


def workers(server) -> list[psutil.Process]:
    """The worker processes, without what multiprocessing keeps beside them."""
    children = psutil.Process(server.pid).children()
    return [child for child in children if any("spawn_main" in word for word in child.cmdline())]


async def test_three_jobs_run_at_once_and_each_can_be_interrupted(server, session, ended):
    async with session.ws_connect(server.url + "/ws?clientId=me") as socket:
        ids = [await post(session, server, text, 600, client_id="me") for text in "abcde"]
        moving: set[str] = set()
        while len(moving) < 3:  # each tells how far it is, while the others do
            message = await socket.receive_json(timeout=120)
            if message["type"] == "progress" and message["data"]["value"] > 5:
                moving.add(message["data"]["prompt_id"])
        queue = await get(session, server, "/queue")
        assert {item[1] for item in queue["queue_running"]} == set(ids[:3]) == moving
        assert [item[1] for item in queue["queue_pending"]] == ids[3:]

        async with session.post(server.url + "/interrupt", json={"prompt_id": ids[1]}):
            pass
        history = await ended(session, server, 1)
        assert list(history) == [ids[1]]
        async with session.post(server.url + "/queue", json={"delete": [ids[4]]}):
            pass
        while ids[3] not in moving:  # it has taken the place that came free
            message = await socket.receive_json(timeout=120)
            if message["type"] == "progress":
                moving.add(message["data"]["prompt_id"])

        async with session.post(server.url + "/interrupt"):
            pass
        history = await ended(session, server, 4)
        assert sorted(history) == sorted(ids[:4])
        for entry in history.values():
            assert entry["status"]["messages"][-1][0] == "execution_interrupted"


async def test_nothing_is_lost_and_nothing_is_twice_when_workers_are_killed(server, session, ended):
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    ids = [await post(session, server, str(number), chance.uniform(0, 0.4)) for number in range(50)]
    await kill_at_random(server, chance, times=4)
    history = await ended(session, server, len(ids))
    assert sorted(history) == sorted(ids), f"seed {seed}"
    for number, job_id in enumerate(ids):
        entry = history[job_id]
        assert entry["status"]["status_str"] == "success", f"seed {seed}: {entry['status']}"
        assert entry["outputs"]["1"]["text"] == [str(number)]
        kinds = [kind for kind, _ in entry["status"]["messages"]]
        assert kinds.count("execution_success") == 1 and kinds[-1] == "execution_success"
    pids = {entry["outputs"]["1"]["pid"][0] for entry in history.values()}
    assert len(pids) > 1 and server.pid not in pids
    assert await get(session, server, "/queue") == {"queue_running": [], "queue_pending": []}
    assert await server.stop() == 0


async def kill_at_random(server, chance: random.Random, times: int) -> None:
    """Until so many jobs lost their worker under them; the log says when one did."""
    while sum("ended with code -9" in line for line in server.log) < times:
        await asyncio.sleep(chance.uniform(0.2, 0.8))
        if alive := workers(server):
            os.kill(chance.choice(alive).pid, signal.SIGKILL)


async def test_a_job_that_kills_its_worker_each_time_fails_with_that_reason(
    make_server, installed, session, prompt, ended
):
    server = make_server(PYTHONPATH=str(installed("process_executor")))
    await server.start("--set", "plugins.disabled=core-nodes,frontend")
    async with session.post(server.url + "/prompt", json={"prompt": prompt("x", "Die")}) as answer:
        deadly = (await answer.json())["prompt_id"]
    async with session.post(server.url + "/prompt", json={"prompt": prompt("lives")}) as answer:
        lives = (await answer.json())["prompt_id"]
    history = await ended(session, server, 2)
    assert history[lives]["status"]["status_str"] == "success"
    kind, data = history[deadly]["status"]["messages"][-1]
    assert (kind, data["exception_type"]) == ("execution_error", "JobCrashed")
    assert "died 2 times" in data["exception_message"] and "code -9" in data["exception_message"]


async def test_a_worker_has_the_settings_of_the_server(
    make_server, installed, session, tmp_path: Path, ended
):
    server = make_server(PYTHONPATH=str(installed("process_executor")), COMFYK_JOBS__MAX_ATTEMPTS="7")
    (tmp_path / "custom_nodes" / "stamps.py").write_text(STAMP)
    (tmp_path / "comfyk.toml").write_text('[execution]\ncache = "none"\n[process_executor]\nworkers = 1\n')
    options = ("--output-directory", str(tmp_path / "made"), "--set", "plugins.disabled=core-nodes,frontend")
    await server.start(*options)
    body = {"prompt": {"1": {"class_type": "Tell", "inputs": {}}}}
    async with session.post(server.url + "/prompt", json=body) as answer:
        assert answer.status == 200, await answer.text()
    [entry] = (await ended(session, server, 1)).values()
    cache, attempts, output, *sections = entry["outputs"]["1"]["text"]
    assert (cache, attempts, output) == ("none", "7", str(tmp_path / "made"))
    assert "execution" in sections and "http" not in sections
    assert len(workers(server)) == 1
