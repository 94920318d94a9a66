"""Requests that wait for a job: `GET /jobs/{id}?wait=`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

WAITS = {"1": {"class_type": "Waits", "inputs": {"value": 1}}}


async def running(server: Any) -> str:
    """The id of a job that runs until it is interrupted."""
    async with server.socket() as ws:
        job_id = await server.submit(WAITS)
        await ws.until("progress_state")
    return job_id


def waiting(server: Any, job_id: str, **options: Any) -> asyncio.Task[tuple[int, Any]]:
    return asyncio.ensure_future(server.get(f"/jobs/{job_id}?wait=60", **options))


async def all_wait(server: Any, count: int) -> None:
    await server.until(lambda: server.http.connections.waiting == count)


async def test_many_hear_at_once_that_a_job_runs_and_then_how_it_ended(server: Any) -> None:
    first = await running(server)
    job_id = await server.submit(server.show(7))
    for_start = [waiting(server, job_id) for _ in range(40)]
    for_end = [waiting(server, first) for _ in range(40)]
    await all_wait(server, 80)
    await server.post("/interrupt")
    for status, job in await asyncio.gather(*for_end):
        assert (status, job["id"], job["status"]) == (200, first, "cancelled")
        assert job["execution_status"]["messages"][-1][0] == "execution_interrupted"
    for _, job in await asyncio.gather(*for_start):
        assert (job["id"], job["status"] in ("in_progress", "completed")) == (job_id, True)
    _, job = await server.get(f"/jobs/{job_id}?wait=60")
    assert (job["status"], job["outputs"]) == ("completed", {"2": {"text": ["7"]}})
    assert job == (await server.get(f"/jobs/{job_id}"))[1]
    assert server.http.connections.waiting == 0


async def test_progress_is_told_while_a_job_runs(server: Any) -> None:
    prompt = {
        **server.show(),
        "3": {"class_type": "Steps", "inputs": {"steps": 1000, "size": 0, "pause": 0.02}},
    }
    async with server.socket() as ws:
        job_id = await server.submit(prompt)
        while True:
            state = (await ws.until("progress_state"))[-1]["data"]["nodes"]
            if "3" in state and state["3"]["value"] > 0:
                break
        status, job = await server.get(f"/jobs/{job_id}?wait=0.01")
        assert (status, job["status"]) == (200, "in_progress")
        progress = job["progress"]
        assert progress["nodes_total"] == 3 and 0 < progress["value"] < 1
        [node] = progress["running"]
        assert (node["node_id"], node["max"]) == ("3", 1000) and node["value"] > 0
        await server.post("/interrupt")
        await ws.until("execution_interrupted")
    assert "progress" not in (await server.get(f"/jobs/{job_id}"))[1]


async def test_a_job_that_is_taken_out_while_it_waits_is_told_as_cancelled(server: Any) -> None:
    await running(server)
    job_id = await server.submit(server.show())
    waits = waiting(server, job_id)
    await all_wait(server, 1)
    await server.post("/queue", {"delete": [job_id]})
    status, job = await waits
    assert (status, job["id"], job["status"]) == (200, job_id, "cancelled")
    assert (await server.get(f"/jobs/{job_id}?wait=60"))[0] == 404
    await server.post("/interrupt")


async def test_a_client_that_leaves_is_waited_with_no_more(server: Any) -> None:
    job_id = await running(server)
    waits = [waiting(server, job_id) for _ in range(3)]
    await all_wait(server, 3)
    for one in waits[:2]:
        one.cancel()
    await all_wait(server, 1)
    waits[2].cancel()
    await all_wait(server, 0)
    await server.until(lambda: not server.app.jobs._endings.awaited)
    await server.post("/interrupt")


@pytest.mark.parametrize("wait", ["x", "-1", "nan", ""])
async def test_what_is_no_time_is_refused(server: Any, wait: str, new_id: str) -> None:
    status, answer = await server.get(f"/jobs/{new_id}?wait={wait}")
    assert (status, answer["error"].partition(":")[0]) == (400, "wait")


async def test_nobody_waits_longer_than_the_setting_says(start: Any) -> None:
    server = await start(max_wait=0.01)
    job_id = await running(server)
    for seconds in ("600", "1e300", "inf"):
        assert (await server.get(f"/jobs/{job_id}?wait={seconds}"))[1]["status"] == "in_progress"
    await server.post("/interrupt")


async def test_those_who_wait_leave_room_for_others(start: Any) -> None:
    server = await start(max_connections=8, max_connections_per_address=8)
    job_id = await running(server)
    waits = [waiting(server, job_id) for _ in range(6)]
    await all_wait(server, 6)
    async with server.client.get(f"/jobs/{job_id}?wait=60") as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "5")
    assert (await server.get(f"/jobs/{job_id}"))[0] == 200
    await server.post("/interrupt")
    assert {job["status"] for _, job in await asyncio.gather(*waits)} == {"cancelled"}


async def test_a_stop_answers_those_who_wait(start: Any) -> None:
    server = await start()
    job_id = await running(server)
    waits = waiting(server, job_id)
    await all_wait(server, 1)
    await server.app.stop()
    status, job = await waits
    assert (status, job["id"], job["status"]) == (200, job_id, "pending")
