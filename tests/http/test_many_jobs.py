"""An executor that runs several jobs at once: each is shown, told of and interrupted by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from comfyk import hookimpl
from comfyk.events import (
    Event,
    Executing,
    ExecutionStart,
    NodeProgress,
    Preview,
    PreviewImage,
    Progress,
    now_ms,
)
from comfyk.jobs import Job, JobStatus, Outcome


class Three:
    """Runs three jobs at a time, each until it is let go or interrupted; every one shows where it is."""

    capacity = 3

    def __init__(self) -> None:
        self._ends: dict[str, asyncio.Future[JobStatus]] = {}

    @hookimpl
    def comfyk_create_executor(self) -> Three:
        return self

    async def start(self, capacity_changed: Callable[[], None]) -> None: ...

    async def stop(self) -> None: ...

    def prepare(self, job: Job) -> None: ...

    async def run(self, job: Job, tell: Callable[[Event], None]) -> Outcome:
        end = self._ends[job.id] = asyncio.get_running_loop().create_future()
        started = now_ms()
        tell(ExecutionStart(job_id=job.id))
        tell(Executing(job_id=job.id, node="2", display_node="2"))
        tell(Progress(job_id=job.id, node="2", value=1, max=4))
        node = NodeProgress(
            node_id="2", display_node_id="2", parent_node_id=None, real_node_id="2", state="running"
        )
        tell(Preview(job_id=job.id, image=PreviewImage(job.id.encode(), "JPEG"), node=node))
        status = await end
        return Outcome(status, started, now_ms(), outputs={"2": {"text": ["x"]}})

    def interrupt(self, job_id: str) -> None:
        self._ends[job_id].set_result(JobStatus.CANCELLED)

    def let_go(self, job_id: str) -> None:
        self._ends[job_id].set_result(JobStatus.COMPLETED)

    async def free(self, *, unload_models: bool, free_memory: bool) -> dict[str, Any]:
        return {}


@pytest.fixture
def three() -> Three:
    return Three()


async def queue(server: Any, **options: Any) -> tuple[set[str], list[str]]:
    _, answer = await server.get("/queue", **options)
    return {item[1] for item in answer["queue_running"]}, [item[1] for item in answer["queue_pending"]]


async def submitted(server: Any, count: int, **options: Any) -> list[str]:
    """Queue so many jobs of the client `me`, and wait until three of them run."""
    async with server.socket("me") as socket:
        ids = [await server.submit(server.show(n), client_id="me", **options) for n in range(count)]
        for _ in range(min(count, 3)):
            await socket.until("progress")
    return ids


async def test_each_is_shown_told_of_and_ended_by_itself(start: Any, three: Three) -> None:
    server = await start(plugins=[three])
    async with server.socket("me", supports_preview_metadata=True) as socket:
        ids = [await server.submit(server.show(number), client_id="me") for number in range(5)]
        previews: set[bytes] = set()
        heard: list[Any] = []
        while len(previews) < 3:
            message = await socket.next()
            if isinstance(message, bytes):
                previews.add(message[-36:])
            else:
                heard.append(message)
        assert previews == {job_id.encode() for job_id in ids[:3]}
        told = [m["data"]["prompt_id"] for m in heard if m["type"] == "progress"]
        assert sorted(told) == sorted(ids[:3])
        assert await queue(server) == (set(ids[:3]), ids[3:])
        assert (await server.get("/prompt"))[1]["exec_info"]["queue_remaining"] == 5
        three.let_go(ids[1])
        await socket.end_of(ids[1])
        await socket.until("progress", prompt_id=ids[3])
        assert await queue(server) == ({ids[0], ids[2], ids[3]}, [ids[4]])
        assert list((await server.get("/history"))[1]) == [ids[1]]
        _, page = await server.get("/jobs", params={"status": "in_progress"})
        assert {job["id"] for job in page["jobs"]} == {ids[0], ids[2], ids[3]}
        await server.post("/interrupt")


async def test_one_is_interrupted_or_all(start: Any, three: Three, new_id: str) -> None:
    server = await start(plugins=[three])
    ids = await submitted(server, 4)
    async with server.socket("me") as socket:
        await server.post("/interrupt", {"prompt_id": new_id})
        assert (await queue(server))[0] == set(ids[:3])
        await server.post("/interrupt", {"prompt_id": ids[2]})
        await socket.until("execution_interrupted", prompt_id=ids[2])
        await socket.until("progress", prompt_id=ids[3])
        assert await server.post(f"/jobs/{ids[0]}/cancel") == (200, {"cancelled": True})
        await socket.end_of(ids[0])
        assert (await queue(server))[0] == {ids[1], ids[3]}
        await server.post("/interrupt")
        ended: set[str] = set()
        while len(ended) < 2:
            ended.add((await socket.until("execution_interrupted"))[-1]["data"]["prompt_id"])
        assert ended == {ids[1], ids[3]}
    entries = (await server.get("/history"))[1]
    assert {entry["status"]["status_str"] for entry in entries.values()} == {"error"}


async def test_a_user_interrupts_their_own(start: Any, three: Three) -> None:
    server = await start(plugins=[three], multi_user=True)
    anna, me = [
        {"Comfy-User": (await server.post("/users", {"username": name}))[1]} for name in ("anna", "me")
    ]
    async with server.socket("me") as socket, server.socket("anna") as other:
        ids = []
        for id, headers, value in (("me", me, 1), ("anna", anna, 2)):
            asked = {"prompt": server.show(value), "client_id": id}
            ids.append((await server.post("/prompt", asked, headers=headers))[1]["prompt_id"])
        mine, hers = ids
        await socket.until("progress")
        await other.until("progress")
        assert await queue(server, headers=anna) == ({hers}, [])
        await server.post("/interrupt", headers=anna)
        await other.until("execution_interrupted", prompt_id=hers)
        assert (await queue(server, headers=me))[0] == {mine}
        await server.post("/interrupt", {"prompt_id": mine}, headers=anna)
        assert (await queue(server, headers=me))[0] == {mine}
        await server.post("/interrupt", headers=me)
        await socket.until("execution_interrupted", prompt_id=mine)


async def test_a_client_that_comes_back_is_told_of_its_job(start: Any, three: Three) -> None:
    server = await start(plugins=[three])
    async with server.socket("me") as socket, server.socket("other") as other:
        theirs = await server.submit(server.show(1), client_id="other")
        mine = await server.submit(server.show(2), client_id="me")
        await socket.until("progress", prompt_id=mine)
        await other.until("progress", prompt_id=theirs)
        async with server.client.ws_connect("/ws?clientId=me") as again:
            assert (await again.receive_json())["data"]["status"]["exec_info"] == {"queue_remaining": 2}
            assert await again.receive_json() == {
                "type": "executing",
                "data": {"node": "2", "display_node": "2", "prompt_id": mine},
            }
        await server.post("/interrupt")


async def test_the_haiven_shape_names_the_latest(start: Any, three: Three) -> None:
    server = await start(plugins=[three], queue_shape="haiven")
    ids = await submitted(server, 4)
    _, answer = await server.get("/queue")
    assert answer["queue_running"] in ids[:3]
    assert [item[0] for item in answer["queue_pending"]] == ids[3:]
    await server.post("/interrupt")
