"""A database of a plugin's own: filled by jobs, searched by a route, kept over restarts, on both kinds of databases."""

from __future__ import annotations

import json

import pytest

PICTURE = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 2, "color": 0}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "sunset"}},
}


@pytest.fixture(params=["sqlite", "postgresql"])
async def server(request, make_server, installed):
    environment = {"PYTHONPATH": str(installed("gallery"))}
    if request.param == "postgresql":
        environment["COMFYK_STORAGE__DATABASE_URL"] = request.getfixturevalue("postgres")()
    server = make_server(**environment)
    await server.start("--set", "plugins.disabled=frontend")
    return server


async def found(session, server, **query):
    async with session.get(server.url + "/gallery", params=query) as answer:
        assert answer.status == 200, await answer.text()
        return (await answer.json())["files"]


async def test_what_jobs_make_is_found_from_the_moment_they_end(server, session, receive):
    async with session.ws_connect(server.url + "/ws?clientId=me") as socket:
        body = {"prompt": PICTURE, "client_id": "me"}
        async with session.post(server.url + "/prompt", json=body) as answer:
            job_id = (await answer.json())["prompt_id"]
        while True:
            message = await receive(socket)
            told = json.loads(message.data) if isinstance(message.data, str) else {}
            if told.get("type") == "executed" and told["data"]["node"] == "2":
                images = told["data"]["output"]["images"]
                assert {image["gallery"] for image in images} == {f"/gallery?job={job_id}"}
            if told.get("type") == "execution_success":
                break
        names = ["sunset_00002_.png", "sunset_00001_.png"]
        assert [file["name"] for file in await found(session, server, word="SUN")] == names
    async with session.get(f"{server.url}/history/{job_id}") as answer:
        kept = (await answer.json())[job_id]["outputs"]["2"]["images"]
    assert kept == images

    assert await server.stop() == 0
    await server.start("--set", "plugins.disabled=frontend")
    assert [file["job_id"] for file in await found(session, server, job=job_id)] == [job_id, job_id]
    assert await found(session, server, word="moon") == []
    async with session.get(server.url + "/gallery", params={"limit": "many"}) as answer:
        assert answer.status == 400 and "limit" in await answer.text()

    async with session.post(server.url + "/history", json={"delete": [job_id]}) as answer:
        assert answer.status == 200
    while True:  # a task forgets them
        async with session.get(server.url + "/tasks", params={"task_name": "gallery.forget"}) as answer:
            (task,) = (await answer.json())["tasks"]
        if task["status"] not in ("created", "running"):
            break
    assert (task["status"], await found(session, server)) == ("completed", [])
