"""`/tasks`: the background work of a server."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from comfyk.tasks import Task


async def quick(task: Task) -> dict[str, int]:
    return {"files": 2}


async def breaks(task: Task) -> None:
    raise ValueError("no such file")


class Gate:
    """Work that goes on until it is let through."""

    def __init__(self) -> None:
        self.begun, self.open = asyncio.Event(), asyncio.Event()

    async def __call__(self, task: Task) -> str:
        task.report(3, 10, "three of ten")
        self.begun.set()
        await self.open.wait()
        return "through"


async def test_a_task_is_looked_up_while_it_runs_and_after(server: Any) -> None:
    gate = Gate()
    task = server.app.tasks.start("download", gate, title="A model", key="k", payload={"url": "u"})
    await gate.begun.wait()
    _, running = await server.get(f"/tasks/{task.id}")
    assert running["status"] == "running"
    assert running["progress"] == {"value": 3, "total": 10, "message": "three of ten"}
    assert (running["task_name"], running["title"]) == ("download", "A model")
    assert (running["idempotency_key"], running["payload"]) == ("k", {"url": "u"})
    assert not {"completed_at", "result", "error"} & running.keys()
    gate.open.set()
    await task.wait()
    status, ended = await server.get(f"/api/tasks/{task.id}")
    assert (status, ended["status"], ended["result"]) == (200, "completed", {"value": "through"})
    times = [
        datetime.fromisoformat(ended[name])
        for name in ("create_time", "started_at", "completed_at", "update_time")
    ]
    assert times == sorted(times)
    assert (datetime.now(UTC) - times[0]).total_seconds() < 60


async def test_tasks_that_fail_or_are_cancelled(server: Any, new_id: str) -> None:
    failed = await server.app.tasks.start("x", breaks).wait()
    _, answer = await server.get(f"/tasks/{failed.id}")
    assert (answer["status"], answer["cancelled"], answer["error"]) == (
        "failed",
        False,
        "ValueError: no such file",
    )
    assert answer["idempotency_key"] == failed.id
    gate = Gate()
    task = server.app.tasks.start("x", gate)
    await gate.begun.wait()
    assert await server.post(f"/tasks/{task.id}/cancel") == (200, {"cancelled": True})
    await task.wait()
    assert await server.post(f"/tasks/{task.id}/cancel") == (200, {"cancelled": False})
    _, answer = await server.get(f"/tasks/{task.id}")
    assert (answer["status"], answer["cancelled"], answer["error"]) == ("failed", True, "It was cancelled.")
    for path in (f"/tasks/{new_id}", "/tasks/x"):
        status, answer = await server.get(path)
        assert (status, answer["error"]) == (404, "Task not found")
        assert (await server.post(f"{path}/cancel"))[0] == 404


async def test_the_list_has_filters_and_pages(server: Any) -> None:
    tasks = [await server.app.tasks.start(name, quick).wait() for name in ("a", "b", "a")]
    failed = await server.app.tasks.start("a", breaks, key="k").wait()

    async def listed(query: str = "") -> list[str]:
        status, answer = await server.get(f"/tasks?{query}")
        assert status == 200, answer
        return [task["id"] for task in answer["tasks"]]

    newest_first = [task.id for task in (failed, *reversed(tasks))]
    assert await listed() == newest_first
    assert await listed("sort_order=asc") == newest_first[::-1]
    assert await listed("task_name=a&status=completed") == [tasks[2].id, tasks[0].id]
    assert await listed("status=failed,running") == [failed.id]
    assert await listed("status=no_such_status") == []
    assert await listed("idempotency_key=k") == [failed.id]
    assert await listed("created_after=2999-01-01T00:00:00Z") == []
    assert await listed("created_before=2999-01-01T00:00:00") == newest_first
    _, page = await server.get("/tasks?limit=2&offset=1")
    assert [task["id"] for task in page["tasks"]] == newest_first[1:3]
    assert page["pagination"] == {"offset": 1, "limit": 2, "total": 4, "has_more": True}
    assert "payload" not in page["tasks"][0]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "offset=-1", "sort_order=up", "created_after=never"]
)
async def test_a_query_that_cannot_be(server: Any, query: str) -> None:
    status, answer = await server.get(f"/tasks?{query}")
    assert status == 422
    assert answer["error"].startswith(query.split("=")[0])


async def test_users_see_their_own_tasks(start: Any) -> None:
    server = await start(multi_user=True)
    anna = (await server.post("/users", {"username": "anna"}))[1]
    task = await server.app.tasks.start("x", quick, user=anna).wait()
    headers = {"Comfy-User": anna}
    ben = {"Comfy-User": (await server.post("/users", {"username": "ben"}))[1]}
    assert [one["id"] for one in (await server.get("/tasks", headers=headers))[1]["tasks"]] == [task.id]
    assert (await server.get("/tasks", headers=ben))[1]["tasks"] == []
    assert (await server.get(f"/tasks/{task.id}", headers=headers))[0] == 200
    assert (await server.get(f"/tasks/{task.id}", headers=ben))[0] == 404
    assert (await server.post(f"/tasks/{task.id}/cancel", headers=ben))[0] == 404


async def test_clients_are_told_of_tasks(server: Any) -> None:
    async with server.socket("a") as a, server.socket("b") as b:
        own = await server.app.tasks.start("x", quick, client_id="a", payload={"secret": 1}).wait()
        for_all = await server.app.tasks.start("y", quick).wait()
        last = (await a.until("task", id=own.id, status="completed"))[-1]
        assert last["data"]["result"] == {"files": 2}
        assert "payload" not in last["data"]
        heard = await b.until("task", id=for_all.id, status="completed")
        assert own.id not in {message["data"].get("id") for message in heard}
