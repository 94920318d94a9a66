"""Nothing that was acknowledged is lost, whenever the process is killed."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import uuid
from pathlib import Path

import aiohttp
import pytest


async def wait_until_idle(session, server):
    """Follow the status messages until no job remains."""
    async with session.ws_connect(server.url + "/ws") as socket:
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            event = json.loads(message.data)
            if event["type"] == "status" and event["data"]["status"]["exec_info"]["queue_remaining"] == 0:
                return


async def known_ids(session, server):
    """Every job that the server knows: in the history, running, waiting."""
    async with session.get(server.url + "/history") as answer:
        history = await answer.json()
    async with session.get(server.url + "/queue") as answer:
        queue = await answer.json()
    running = [item[1] for item in queue["queue_running"]]
    pending = [item[1] for item in queue["queue_pending"]]
    return list(history), running, pending


async def post_for_ever(session, server, make_prompt, acknowledged, errors):
    """A client that posts until the server is gone."""
    while True:
        job_id = str(uuid.uuid4())
        body = {"prompt": make_prompt(job_id, seconds=0.01), "prompt_id": job_id, "client_id": "c"}
        try:
            async with session.post(server.url + "/prompt", json=body) as answer:
                if answer.status != 200:
                    errors.append(await answer.text())
                    return
                assert (await answer.json())["prompt_id"] == job_id
                acknowledged.append(job_id)
        except aiohttp.ClientError:
            return


async def test_every_acknowledged_job_survives_sigkill(server, session, prompt):
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    acknowledged: list[str] = []
    errors: list[str] = []
    for _ in range(4):
        await server.start()
        known = [job for part in await known_ids(session, server) for job in part]
        assert set(acknowledged) <= set(known), f"seed {seed}"
        assert len(known) == len(set(known)), f"seed {seed}: a job is there twice"
        clients = [
            asyncio.create_task(post_for_ever(session, server, prompt, acknowledged, errors))
            for _ in range(4)
        ]
        before = len(acknowledged)
        while len(acknowledged) == before and not errors:
            await asyncio.sleep(0.001)
        await asyncio.sleep(chance.uniform(0, 0.3))
        await server.kill()
        await asyncio.gather(*clients)
        assert not errors

    await server.start()
    await asyncio.wait_for(wait_until_idle(session, server), 120)
    history, running, pending = await known_ids(session, server)
    assert not running and not pending
    assert set(acknowledged) <= set(history), f"seed {seed}"
    for job_id in acknowledged:
        async with session.get(f"{server.url}/history/{job_id}") as answer:
            entry = (await answer.json())[job_id]
        if entry["status"]["status_str"] == "error":
            # It happened to be the running one at two kills: then it ends with that reason.
            assert entry["status"]["messages"][-1][1]["exception_type"] == "JobCrashed", (
                f"seed {seed}: {entry}"
            )
        else:
            assert entry["outputs"]["2"]["text"] == [job_id]
    assert await server.stop() == 0


async def test_a_prompt_that_kills_the_process_fails_after_two_tries(server, session, prompt):
    await server.start()
    async with session.post(server.url + "/prompt", json={"prompt": prompt("x", "Die")}) as answer:
        deadly = (await answer.json())["prompt_id"]
    await server.died()

    await server.start("--verbose", "INFO")  # runs it again, which ends it again
    await server.died()

    await server.start()
    async with session.post(server.url + "/prompt", json={"prompt": prompt("still here")}) as answer:
        after = (await answer.json())["prompt_id"]
    await wait_until_idle(session, server)
    async with session.get(server.url + "/history") as answer:
        history = await answer.json()
    assert history[after]["status"]["status_str"] == "success"
    status = history[deadly]["status"]
    assert status["status_str"] == "error"
    kind, data = status["messages"][-1]
    assert (kind, data["exception_type"]) == ("execution_error", "JobCrashed")
    assert "2 times" in data["exception_message"]


async def test_a_stop_in_good_order_keeps_the_running_job_for_the_next_start(server, session, prompt):
    await server.start()
    ids = []
    for text in "abc":
        async with session.post(server.url + "/prompt", json={"prompt": prompt(text, seconds=0.5)}) as answer:
            ids.append((await answer.json())["prompt_id"])
    assert await server.stop() == 0
    await server.start()
    await wait_until_idle(session, server)
    history, _, _ = await known_ids(session, server)
    assert set(history) == set(ids)


async def test_a_server_that_is_killed_while_a_job_waits_for_torch_does_not_blame_the_job(server, session):
    picture = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    await server.start()
    async with session.post(server.url + "/prompt", json={"prompt": picture}) as answer:
        job_id = (await answer.json())["prompt_id"]
    for _ in range(3):  # more often than a job is tried
        _, running, pending = await known_ids(session, server)
        assert [*running, *pending] == [job_id], "torch is there at once: this tests nothing"
        await server.kill()
        await server.start()
    await asyncio.wait_for(wait_until_idle(session, server), 120)
    async with session.get(f"{server.url}/history/{job_id}") as answer:
        entry = (await answer.json())[job_id]
    assert entry["status"]["status_str"] == "success", entry["status"]
    assert entry["outputs"]["2"]["images"][0]["filename"] == "x_00001_.png"


async def test_uploads_that_a_kill_cuts_short_leave_nothing_at_the_next_start(server, session, tmp_path):
    def hidden() -> list[str]:
        folders = ("input", "output", "temp", "user")
        return [file.name for name in folders for file in (tmp_path / name).rglob(".comfyk-*")]

    async def slowly(start: bytes):
        yield start + b"x" * 3_000_000
        await asyncio.sleep(60)

    form = {"Content-Type": "multipart/form-data; boundary=b"}
    start = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    for _ in range(2):
        await server.start()
        async with asyncio.timeout(20):
            while hidden():  # of the time before
                await asyncio.sleep(0.05)
        uploads = [
            asyncio.create_task(session.post(server.url + "/upload/image", data=slowly(start), headers=form)),
            asyncio.create_task(session.post(server.url + "/userdata/a%2Fb.bin", data=slowly(b""))),
        ]
        async with asyncio.timeout(20):
            while len(hidden()) < 2:
                await asyncio.sleep(0.05)
        await server.kill()
        assert all(
            isinstance(e, aiohttp.ClientError) for e in await asyncio.gather(*uploads, return_exceptions=True)
        )
    await server.start()
    async with asyncio.timeout(20):
        while hidden():
            await asyncio.sleep(0.05)
    names = [file.name for file in (tmp_path / "input").iterdir()]
    assert [name for name in names if not name.startswith("comfyk-example")] == []
    async with session.get(server.url + "/userdata?dir=a") as answer:
        assert answer.status == 404, "there is not even the folder"
    assert await server.stop() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="a process's peak of memory is asked of /proc")
async def test_a_queue_larger_than_memory_is_there_after_a_kill_and_runs(
    make_server, session, prompt, tmp_path
):
    """Each job takes some 40 MB once it is read, all at once 400 MB and more."""
    server = make_server(COMFYK_PLUGINS__DISABLED='["core-nodes"]')
    await server.start()
    async with session.post(server.url + "/queue", json={"pause": True}) as answer:
        assert answer.status == 200
    ids = [str(uuid.uuid4()) for _ in range(9)]
    things = b"[" + b",".join([b'{"a":1}'] * 200_000) + b"]"
    for job_id in ids:
        head = json.dumps({"prompt": prompt(job_id), "prompt_id": job_id}).encode()
        body = head[:-1] + b',"extra_data":{"extra_pnginfo":{"things":' + things + b"}}}"
        async with session.post(server.url + "/prompt", data=body) as answer:
            assert answer.status == 200, await answer.text()
    assert peak_mb(server.pid) < 280
    await server.kill()
    await server.start()
    async with session.get(server.url + "/queue") as answer:
        shown = await answer.read()
    assert sum(shown.count(f'"{job_id}",{{'.encode()) for job_id in ids) >= 7  # one or two may have run
    await asyncio.wait_for(wait_until_idle(session, server), 60)
    assert peak_mb(server.pid) < 280
    async with session.get(server.url + "/jobs?status=completed&sort_order=asc") as answer:
        assert [job["id"] for job in (await answer.json())["jobs"]] == ids
    async with session.get(f"{server.url}/history/{ids[-1]}") as answer:
        entry = (await answer.json())[ids[-1]]
    assert entry["outputs"] == {"2": {"text": [ids[-1]]}}
    assert entry["prompt"][3]["extra_pnginfo"] == {"things": json.loads(things)}


def peak_mb(pid: int) -> float:
    """The most memory that the process has held so far."""
    [line] = [
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")
    ]
    return int(line.split()[1]) / 1000
