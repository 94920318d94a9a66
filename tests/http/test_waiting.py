"""Requests that wait for a job: `GET /jobs/{id}?wait=` and `POST /prompt?wait=`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from comfyk import current_app
from comfyk_http.result_picture import accepted_pictures
from PIL import Image

WAITS = {"1": {"class_type": "Waits", "inputs": {"value": 1}}}


class Draws:
    """Saves pictures by these names (`type/name`), and shows them."""

    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    INPUT_TYPES = classmethod(lambda cls: {"required": {"names": ("STRING",)}})

    def run(self, names: str) -> dict[str, Any]:
        shown: list[Any] = [None, "x", {"filename": 5}, {"filename": "../x.png"}, {"filename": "gone.png"}]
        for name in names.split():
            type, _, filename = name.partition("/")
            if type in ("output", "temp"):
                folder = current_app().folders.directory(type)
                folder.mkdir(exist_ok=True)
                Image.new("RGB", (8, 4), "red").save(
                    folder / filename, "WEBP" if filename.endswith("webp") else "PNG"
                )
            shown.append({"filename": filename, "subfolder": "", "type": type})
        return {"ui": {"images": shown, "more": "x"}}


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


async def post(server: Any, prompt: dict[str, Any], wait: str = "60", **headers: str) -> tuple[int, Any, Any]:
    """Status, headers, and JSON or bytes of a prompt that is waited for."""
    body = {"prompt": prompt}
    async with server.client.post(f"/prompt?wait={wait}", json=body, headers=headers) as response:
        is_json = response.content_type == "application/json"
        return response.status, response.headers, await (response.json() if is_json else response.read())


async def test_a_prompt_is_answered_with_its_outcome(server: Any) -> None:
    status, _, answer = await post(server, server.show(7))
    assert (status, answer["status"], answer["outputs"]) == (200, "completed", {"2": {"text": ["7"]}})
    assert (answer["node_errors"], answer["number"]) == ({}, 0)
    kept = (await server.get(f"/jobs/{answer['prompt_id']}"))[1]
    assert {name: answer[name] for name in kept} == kept
    status, _, answer = await post(server, server.single("Fails", value=3))
    assert (status, answer["status"]) == (200, "failed")
    assert "no luck with 3" in answer["execution_error"]["exception_message"]


async def test_a_prompt_that_takes_longer_is_answered_with_where_to_look(server: Any) -> None:
    status, headers, answer = await post(server, WAITS, wait="0.01")
    assert (status, answer["status"]) == (202, "in_progress")
    assert headers["Location"] == f"jobs/{answer['prompt_id']}"
    status, _, second = await post(server, server.show(), wait="0", Accept="image/*")
    assert (status, second["status"]) == (202, "pending")
    ends = waiting(server, second["prompt_id"])
    await all_wait(server, 1)
    await server.post("/interrupt")
    await ends
    status, answer = await server.post("/prompt", {"prompt": server.show()})
    assert (status, set(answer)) == (200, {"prompt_id", "number", "node_errors"})


async def test_a_prompt_that_is_refused_is_refused_at_once(server: Any) -> None:
    status, _, answer = await post(server, server.single("Unknown"))
    assert (status, answer["error"]["type"]) == (400, "missing_node_type")
    for wait in ("x", "-1", "nan"):
        status, _, answer = await post(server, server.show(), wait=wait)
        assert (status, answer["error"]["extra_info"]["field"]) == (400, "wait")
    assert (await server.get("/history"))[1] == {}


async def test_whoever_wants_a_picture_gets_it(server: Any) -> None:
    server.app.nodes.add(Draws)
    names = "temp/preview.png input/x.png output/text.txt output/script.svg output/a.png output/b.webp"
    draws = server.single("Draws", names=names)
    for accept, name in [
        ("image/*", "a.png"),
        ("image/png;q=0.5, image/webp", "b.webp"),
        ("IMAGE/WEBP", "b.webp"),
        ("application/json;q=0.1, image/*;q=0.2", "a.png"),
    ]:
        status, headers, data = await post(server, draws, Accept=accept)
        assert (status, headers["Content-Type"]) == (200, f"image/{name[2:]}")
        assert data == (server.app.folders.output / name).read_bytes()
        assert await server.get(f"/{headers['Content-Location']}") == (200, data)
        assert (await server.get(f"/jobs/{headers['Comfyk-Prompt-Id']}"))[1]["status"] == "completed"
    for accept in ("*/*", "application/json, image/*", "image/*;q=0", "image/*;q=x", "", "image"):
        assert (await post(server, draws, Accept=accept))[2]["status"] == "completed"
    _, headers, _ = await post(server, server.single("Draws", names="temp/preview.png"), Accept="image/*")
    assert "type=temp" in headers["Content-Location"]


async def test_where_there_is_no_picture_the_reason_is_told(server: Any) -> None:
    server.app.nodes.add(Draws)
    draws = server.single("Draws", names="output/a.png output/b.svg")
    for prompt, accept, expected in [
        (draws, "image/avif", (406, "no_picture")),
        (draws, "image/svg+xml", (406, "no_picture")),
        (server.show(), "image/*", (406, "no_picture")),
        (server.single("Fails", value=3), "image/*", (500, "job_failed")),
    ]:
        status, headers, answer = await post(server, prompt, Accept=accept)
        assert (status, answer["error"]["type"]) == expected
        assert headers["Comfyk-Prompt-Id"] == answer["prompt_id"]
    waits = asyncio.ensure_future(post(server, WAITS, Accept="image/*"))
    await server.until(lambda: server.app.jobs.running and server.app.jobs.running[0].prompt == WAITS)
    await server.post("/interrupt")
    status, _, answer = await waits
    assert (status, answer["error"]["type"]) == (409, "job_cancelled")


def test_the_most_wanted_media_range_comes_first() -> None:
    assert accepted_pictures("text/html, image/webp;q=0.2, image/png; q=0.9;x=1, */*") == [
        "image/png",
        "image/webp",
    ]
    assert accepted_pictures("image/avif,image/webp,*/*;q=0.8") == ["image/avif", "image/webp"]
    assert accepted_pictures(";;,,=") == []


async def test_those_who_leave_or_are_too_many_queue_as_others(start: Any) -> None:
    server = await start(max_connections=8, max_connections_per_address=8)
    first = asyncio.ensure_future(post(server, WAITS))
    await all_wait(server, 1)
    [job] = server.app.jobs.running
    first.cancel()
    await all_wait(server, 0)
    waits = [waiting(server, job.id) for _ in range(6)]
    await all_wait(server, 6)
    assert (await post(server, server.show()))[0] == 503
    assert server.app.jobs.remaining == 1
    await server.post("/interrupt")
    assert {answer["id"] for _, answer in await asyncio.gather(*waits)} == {job.id}
