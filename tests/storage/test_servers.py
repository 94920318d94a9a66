"""Real servers that share one PostgreSQL: killed, stopped, and asked about each other's jobs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

LEASE_S = 1.5
JOB, NEXT, CANCELLED = (str(uuid.uuid4()) for _ in range(3))
PACK = """
import os
import time

FILE = {file!r}


def write(what, text):
    line = f"{{what}} {{text}} {{os.getpid()}} {{time.monotonic()}}\\n".encode()
    fd = os.open(FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, line)
    os.close(fd)


class Mark:
    INPUT_TYPES = classmethod(lambda cls: {{"required": {{"text": ("STRING",), "seconds": ("FLOAT",)}}}})
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    def run(self, text, seconds):
        from comfyk import check_interrupted
        write("begin", text)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            check_interrupted()
            time.sleep(0.01)
        write("end", text)
        return {{"ui": {{"text": [text, str(os.getpid())]}}}}


NODE_CLASS_MAPPINGS = {{"Mark": Mark}}
"""


def mark(text: str, seconds: float = 0.0) -> dict[str, Any]:
    return {"1": {"class_type": "Mark", "inputs": {"text": text, "seconds": seconds}}}


class Runs:
    """What the nodes have written: each run of a job is (pid, begun, ended or None)."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self) -> dict[str, list[tuple[int, float, float | None]]]:
        found: dict[str, list[tuple[int, float, float | None]]] = defaultdict(list)
        for line in self._file.read_text().splitlines() if self._file.exists() else ():
            what, job_id, pid, when = line.split()
            if what == "begin":
                found[job_id].append((int(pid), float(when), None))
            else:
                at = max(i for i, run in enumerate(found[job_id]) if run[0] == int(pid))
                found[job_id][at] = (int(pid), found[job_id][at][1], float(when))
        return found

    async def begun(self, job_id: str) -> int:
        """The process that runs the job, as soon as one does."""
        while not (runs := self.read()[job_id]):
            await asyncio.sleep(0.01)
        return runs[-1][0]


@pytest.fixture
def runs(tmp_path) -> Runs:
    return Runs(tmp_path / "runs")


@pytest.fixture
def make_servers(make_server, postgres, tmp_path, runs) -> Callable[[int], list[Any]]:
    """`make_servers(2)`: servers that are not started yet, of one new database."""

    def make(count: int) -> list[Any]:
        url = postgres()
        servers = []
        for number in range(count):
            base = tmp_path / f"server{number}"
            servers.append(
                make_server(
                    base,
                    COMFYK_STORAGE__DATABASE_URL=url,
                    COMFYK_STORAGE__LEASE_S=str(LEASE_S),
                    COMFYK_PLUGINS__DISABLED='["core-nodes", "frontend"]',
                )
            )
            (base / "custom_nodes" / "marks.py").write_text(PACK.format(file=str(tmp_path / "runs")))
        return servers

    return make


async def get(session: aiohttp.ClientSession, server: Any, path: str) -> Any:
    async with session.get(server.url + path) as answer:
        return await answer.json()


async def post(session: aiohttp.ClientSession, server: Any, path: str, body: Any) -> int:
    async with session.post(server.url + path, json=body) as answer:
        await answer.read()
        return answer.status


async def queue(session, server, job_id: str, seconds: float = 0.0, client: str = "c") -> None:
    body = {"prompt": mark(job_id, seconds), "prompt_id": job_id, "client_id": client}
    async with session.post(server.url + "/prompt", json=body) as answer:
        assert answer.status == 200, await answer.text()


async def until_in_history(session, server, job_id: str, seconds: float = 20) -> dict[str, Any]:
    async with asyncio.timeout(seconds):
        while not (found := await get(session, server, f"/history/{job_id}")):
            await asyncio.sleep(0.02)
    return found[job_id]


async def test_whatever_is_killed_each_job_ends_once(make_servers, session, runs):
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    servers = make_servers(2)
    await asyncio.gather(*(server.start() for server in servers))
    acknowledged: list[str] = []
    killed: dict[int, float] = {}
    stop = asyncio.Event()

    async def client(number: int) -> None:
        while not stop.is_set():
            job_id = str(uuid.uuid4())
            with contextlib.suppress(aiohttp.ClientError):
                await queue(session, servers[number % 2], job_id, chance.choice([0, 0, 0.02, 0.2]))
                acknowledged.append(job_id)
            await asyncio.sleep(0.05)

    clients = [asyncio.create_task(client(number)) for number in range(4)]
    for _ in range(5):
        await asyncio.sleep(chance.uniform(0.2, 1.0))
        server = chance.choice(servers)
        pid = server.pid
        await server.kill()
        killed[pid] = time.monotonic()
        await asyncio.sleep(chance.choice([0, 0, 2 * LEASE_S]))
        await server.start()
    stop.set()
    await asyncio.gather(*clients)

    async with asyncio.timeout(90):
        while (await get(session, servers[0], "/prompt"))["exec_info"]["queue_remaining"]:
            await asyncio.sleep(0.1)
    histories = [await get(session, server, "/history") for server in servers]
    assert list(histories[0]) == list(histories[1])
    assert set(acknowledged) <= set(histories[0]), f"seed {seed}: a job was lost"
    found = runs.read()
    for job_id, entry in histories[0].items():
        message = f"seed {seed}: {job_id} {found[job_id]} {killed} {entry['status']}"
        if entry["status"]["status_str"] == "error":
            # It ran at two kills: then it ends with that reason.
            assert entry["status"]["messages"][-1][1]["exception_type"] == "JobCrashed", message
        else:
            assert entry["outputs"]["1"]["text"][0] == job_id, message
            assert len([run for run in found[job_id] if run[2] is not None and run[0] not in killed]) <= 1, (
                message
            )
        # One at a time; and again only where the one before was killed.
        for before, after in zip(found[job_id], found[job_id][1:], strict=False):
            assert before[0] in killed, message
            assert after[1] >= (before[2] or killed[before[0]]), message
    assert len(acknowledged) > 30
    for server in servers:
        assert await server.stop() == 0


async def test_a_server_that_stops_past_its_lease_loses_its_job(make_servers, session, runs):
    servers = make_servers(2)
    await asyncio.gather(*(server.start() for server in servers))
    by_pid = {server.pid: server for server in servers}
    job_id = JOB
    await queue(session, servers[0], job_id, 1.0)
    stopped = by_pid[await runs.begun(job_id)]
    other = servers[1 - servers.index(stopped)]
    os.kill(stopped.pid, signal.SIGSTOP)
    try:
        entry = await until_in_history(session, other, job_id)
    finally:
        os.kill(stopped.pid, signal.SIGCONT)
    assert entry["outputs"]["1"]["text"] == [job_id, str(other.pid)]
    async with asyncio.timeout(20):
        while not any("was lost" in line for line in stopped.log):
            await asyncio.sleep(0.05)
    # It works on, and what it had done of that job is void.
    await queue(session, stopped, NEXT)
    await until_in_history(session, stopped, NEXT)
    assert await get(session, stopped, f"/history/{job_id}") == {job_id: entry}
    assert list(await get(session, stopped, "/history")) == [job_id, NEXT]
    assert [pid for pid, _, _ in runs.read()[job_id]] == [stopped.pid, other.pid]
    queues = [await get(session, server, "/queue") for server in servers]
    assert all(not found["queue_running"] and not found["queue_pending"] for found in queues)


async def test_a_server_that_is_stopped_for_less_than_its_lease_keeps_its_job(make_servers, session, runs):
    servers = make_servers(2)
    await asyncio.gather(*(server.start() for server in servers))
    await queue(session, servers[0], JOB, 0.5)
    pid = await runs.begun(JOB)
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(LEASE_S / 4)
    os.kill(pid, signal.SIGCONT)
    entry = await until_in_history(session, servers[1], JOB)
    assert entry["outputs"]["1"]["text"] == [JOB, str(pid)]
    assert len(runs.read()[JOB]) == 1


async def test_a_server_that_starts_anew_waits_for_no_lease(make_server, postgres, session, tmp_path, runs):
    server = make_server(
        tmp_path / "one", COMFYK_STORAGE__DATABASE_URL=postgres(), COMFYK_STORAGE__LEASE_S="3600"
    )
    (tmp_path / "one" / "custom_nodes" / "marks.py").write_text(PACK.format(file=str(tmp_path / "runs")))
    await server.start()
    await queue(session, server, JOB, 0.7)
    await runs.begun(JOB)
    await server.kill()
    await server.start()
    entry = await until_in_history(session, server, JOB)
    assert entry["outputs"]["1"]["text"] == [JOB, str(server.pid)]


async def test_two_servers_with_one_base_folder_are_refused(make_server, postgres, tmp_path):
    url = postgres()
    quick = {"COMFYK_STORAGE__DATABASE_URL": url, "COMFYK_PLUGINS__DISABLED": '["core-nodes", "frontend"]'}
    await make_server(tmp_path / "one", **quick).start()
    with pytest.raises(RuntimeError, match=r"storage\.server_name"):
        await make_server(tmp_path / "one", **quick).start()
    await make_server(tmp_path / "one", **quick, COMFYK_STORAGE__SERVER_NAME="second").start()


async def test_a_job_that_another_server_runs(make_servers, session, runs):
    """Seen, waited for, told about, and cancelled where it came in."""
    here, there = make_servers(2)
    await asyncio.gather(here.start(), there.start())
    assert await post(session, here, "/queue", {"pause": True}) == 200

    async with session.ws_connect(here.url + "/ws?clientId=me") as socket:

        async def message(kind: str, job_id: str) -> dict[str, Any]:
            async with asyncio.timeout(20):
                async for found in socket:
                    if found.type is aiohttp.WSMsgType.TEXT:
                        told = json.loads(found.data)
                        if told["type"] == kind and told["data"].get("prompt_id") == job_id:
                            return told["data"]
            raise AssertionError("the socket was closed")

        await queue(session, here, JOB, 1.5, client="me")
        await queue(session, here, NEXT, client="me")
        assert await runs.begun(JOB) == there.pid
        for server in (here, there):
            found = await get(session, server, "/queue")
            assert [item[1] for item in found["queue_running"]] == [JOB]
            assert [item[1] for item in found["queue_pending"]] == [NEXT]
            assert (await get(session, server, f"/jobs/{JOB}"))["status"] == "in_progress"
        async with asyncio.timeout(5):
            while (await get(session, there, "/prompt"))["exec_info"]["queue_remaining"] != 2:
                await asyncio.sleep(0.05)
        assert (await get(session, here, "/prompt"))["exec_info"]["queue_remaining"] == 2
        await message("execution_success", JOB)
        assert (await message("executing", JOB))["node"] is None
        await message("execution_success", NEXT)
        assert list(await get(session, here, "/history")) == [JOB, NEXT]

        await queue(session, here, CANCELLED, 60, client="me")
        assert await runs.begun(CANCELLED) == there.pid
        assert await post(session, here, f"/jobs/{CANCELLED}/cancel", {}) == 200
        await message("execution_interrupted", CANCELLED)
        assert (await get(session, there, f"/jobs/{CANCELLED}"))["status"] == "cancelled"

    async with asyncio.timeout(5):
        while (await get(session, here, "/prompt"))["exec_info"]["queue_remaining"]:
            await asyncio.sleep(0.05)


async def test_a_stop_in_good_order_hands_the_job_to_the_other(make_servers, session, runs):
    servers = make_servers(2)
    await asyncio.gather(*(server.start() for server in servers))
    by_pid = {server.pid: server for server in servers}
    await queue(session, servers[0], JOB, 1.0)
    first = by_pid[await runs.begun(JOB)]
    other = servers[1 - servers.index(first)]
    assert await first.stop() == 0
    entry = await until_in_history(session, other, JOB)
    assert entry["outputs"]["1"]["text"] == [JOB, str(other.pid)]
    assert len(entry["status"]["messages"]) >= 2
