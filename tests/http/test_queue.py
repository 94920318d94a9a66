"""The queue is shown and changed, jobs are interrupted, memory is freed; each user's apart from the others'."""

from __future__ import annotations

from typing import Any

import pytest


async def _pending(server: Any) -> list[str]:
    return [item[1] for item in (await server.get("/queue"))[1]["queue_pending"]]


async def test_the_queue_is_shown_and_changed(server: Any) -> None:
    await server.post("/queue", {"pause": True})
    ids = [await server.submit(server.show(number), extra_data={"a": number}) for number in range(4)]
    _, queue = await server.get("/queue")
    assert queue["queue_running"] == []
    number, job_id, prompt, extra_data, targets = queue["queue_pending"][1]
    assert (job_id, prompt, extra_data["a"], targets) == (ids[1], server.show(1), 1, ["2"])
    assert (await server.get("/prompt"))[1] == {"exec_info": {"queue_remaining": 4, "paused": True}}
    front = await server.submit(server.show(9), front=True)
    assert await _pending(server) == [front, *ids]
    await server.post("/queue", {"move": {"prompt_id": ids[3], "front": True}})
    assert await _pending(server) == [ids[3], front, *ids[:3]]
    await server.post("/queue", {"delete": [front, ids[0], "unknown"]})
    assert await _pending(server) == [ids[3], *ids[1:3]]
    assert (await server.post(f"/jobs/{ids[1]}/cancel")) == (200, {"cancelled": True})
    assert (await server.post("/jobs/cancel", {"job_ids": [ids[2], ids[1]]}))[1] == {"cancelled": True}
    assert (await server.post("/queue", {"move": {"prompt_id": ids[1]}}))[0] == 404
    await server.post("/queue", {"clear": True})
    assert await _pending(server) == []
    await server.post("/queue", {"resume": True})
    assert (await server.get("/prompt"))[1] == {"exec_info": {"queue_remaining": 0}}
    assert (await server.run(server.show()))["status"]["completed"]
    assert number == 1


async def test_the_queue_in_another_shape(start: Any) -> None:
    server = await start(queue_shape="haiven")
    assert await server.get("/queue") == (200, {"queue_running": None, "queue_pending": []})
    async with server.socket() as ws:
        running = await server.submit(server.single("Waits", value=1))
        await ws.until("progress_state")
        pending = await server.submit(server.show())
        _, queue = await server.get("/queue")
        assert queue["queue_running"] == running
        assert queue["queue_pending"] == [[pending, {"prompt": server.show(), "outputs": {}}]]
        await server.post("/interrupt")


async def test_the_running_job_is_interrupted(server: Any, new_id: str) -> None:
    async with server.socket() as ws:
        job_id = await server.submit(server.single("Waits", value=1))
        await ws.until("progress_state")
        assert (await server.post("/interrupt", {"prompt_id": new_id}))[0] == 200
        assert [item[1] for item in (await server.get("/queue"))[1]["queue_running"]] == [job_id]
        assert (await server.post("/interrupt", {"prompt_id": job_id}))[0] == 200
        await ws.until("execution_interrupted", prompt_id=job_id)
        second = await server.submit(server.single("Waits", value=2))
        await ws.until("progress_state", prompt_id=second)
        assert await server.post(f"/api/jobs/{second}/cancel") == (200, {"cancelled": True})
        await ws.until("execution_interrupted", prompt_id=second)
    _, details = await server.get(f"/jobs/{second}")
    assert details["status"] == "cancelled"


async def test_memory_is_freed(server: Any) -> None:
    for body in (None, {}, {"unload_models": True, "free_memory": True}):
        status, answer = await server.post("/free", body)
        assert status == 200
        assert isinstance(answer, dict)


@pytest.mark.parametrize("body", [b"x", b"[]", b"\xff", b'{"job_ids": [[]]}', b'{"job_ids": 5}'])
async def test_bad_bodies(server: Any, body: bytes) -> None:
    for prefix in ("", "/api"):
        status, answer = await server.post(f"{prefix}/jobs/cancel", data=body)
        assert status == 400
        assert isinstance(answer["error"], str)


async def test_users_see_their_own_jobs_only(start: Any) -> None:
    server = await start(multi_user=True)
    ann, ben = [
        {"Comfy-User": (await server.post("/users", {"username": name}))[1]} for name in ("ann", "ben")
    ]
    await server.post("/queue", {"pause": True}, headers=ann)
    ids = {}
    for name, headers in (("ann", ann), ("ben", ben)):
        _, answer = await server.post("/prompt", {"prompt": server.show()}, headers=headers)
        ids[name] = answer["prompt_id"]
    _, queue = await server.get("/queue", headers=ann)
    assert [item[1] for item in queue["queue_pending"]] == [ids["ann"]]
    assert (await server.post(f"/jobs/{ids['ben']}/cancel", headers=ann))[1] == {"cancelled": False}
    assert (await server.get(f"/jobs/{ids['ben']}", headers=ann))[0] == 404
    await server.post("/queue", {"clear": True}, headers=ann)
    assert [item[1] for item in (await server.get("/queue", headers=ben))[1]["queue_pending"]] == [ids["ben"]]
    assert (await server.get("/queue", headers={"Comfy-User": "a" * 300}))[0] == 400


async def test_users_see_clear_and_interrupt_their_own_only(start: Any) -> None:
    server = await start(multi_user=True)
    ann, ben = [
        {"Comfy-User": (await server.post("/users", {"username": name}))[1]} for name in ("ann", "ben")
    ]
    ids = {}
    async with server.socket() as ws:
        for user, headers, prompt in (
            ("ann", ann, server.single("Waits", value=1)),
            ("ben", ben, server.show()),
        ):
            _, answer = await server.post("/prompt", {"prompt": prompt}, headers=headers)
            ids[user] = answer["prompt_id"]
        await ws.until("progress_state")
        for body in ({}, {"prompt_id": ids["ann"]}):
            await server.post("/interrupt", body, headers=ben)
            assert (await server.get("/queue", headers=ann))[1]["queue_running"][0][1] == ids["ann"]
        await server.post("/interrupt", {}, headers=ann)
        await ws.until("execution_interrupted", prompt_id=ids["ann"])
        await server.until_ended(ids["ben"], headers=ben)
    for user, headers in (("ann", ann), ("ben", ben)):
        assert list((await server.get("/history", headers=headers))[1]) == [ids[user]]
        assert [job["id"] for job in (await server.get("/jobs", headers=headers))[1]["jobs"]] == [ids[user]]
    assert (await server.get(f"/history/{ids['ben']}", headers=ann)) == (200, {})
    await server.post("/history", {"delete": [ids["ben"]]}, headers=ann)
    await server.post("/history", {"clear": True}, headers=ann)
    assert (await server.get("/history", headers=ann)) == (200, {})
    assert list((await server.get("/history", headers=ben))[1]) == [ids["ben"]]


async def test_what_waits_is_limited_and_a_long_queue_is_shown_whole(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFYK_JOBS__MAX_WAITING_MB", "5")
    server = await start()
    await server.post("/queue", {"pause": True})
    large = {"a": "x" * 800_000}
    ids = [await server.submit(server.show(number), extra_data=large) for number in range(6)]
    async with server.client.post("/prompt", json={"prompt": server.show(), "extra_data": large}) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "10")
        error = (await answer.json())["error"]
        assert error["type"] == "queue_full" and "jobs.max_waiting_mb" in error["message"]
    huge = {"prompt": server.show(), "extra_data": {"a": "x" * 6_000_000}}
    status, answer = await server.post("/prompt", huge)
    assert status == 413 and "jobs.max_waiting_mb" in answer["error"]["message"]
    async with server.client.get("/queue") as answer:
        assert answer.content_length is None and answer.content_type == "application/json"
        pending = (await answer.json())["queue_pending"]
    assert [item[1] for item in pending] == ids
    assert [item[2] for item in pending] == [server.show(number) for number in range(6)]
    assert all(item[3]["a"] == large["a"] and item[4] == ["2"] for item in pending)
    await server.post("/queue", {"delete": ids[:3]})
    ids = [*ids[3:], await server.submit(server.show(), extra_data=large)]
    await server.post("/queue", {"resume": True})
    assert (await server.until_ended(ids[-1]))["status"]["completed"]
    assert list((await server.get("/history"))[1]) == ids
