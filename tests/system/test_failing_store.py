"""A database that fails, or whose files are taken away, under a real server."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import time

import pytest


async def history(session, server) -> dict:
    async with session.get(server.url + "/history") as answer:
        return await answer.json()


async def post(session, server, prompt) -> tuple[int, dict]:
    async with session.post(server.url + "/prompt", json={"prompt": prompt}) as answer:
        return answer.status, await answer.json()


async def ended(session, server, count: int) -> list[str]:
    for _ in range(400):
        if len(found := await history(session, server)) >= count:
            return list(found)
        await asyncio.sleep(0.05)
    raise AssertionError("the jobs do not end")


async def test_a_stop_while_the_database_fails_is_bounded_and_loses_nothing(
    make_server, session, prompt, tmp_path
) -> None:
    server = make_server(COMFYK_STORAGE__BUSY_TIMEOUT_S="0.3")
    await server.start()
    file = tmp_path / "user" / "comfyk.db"
    _, first = await post(session, server, prompt("first"))
    await ended(session, server, 1)
    _, told = await post(session, server, prompt("hello", seconds=0.5))
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    while not (tmp_path / "user" / "comfyk.db.unsaved").exists():
        await asyncio.sleep(0.05)
    status, refused = await post(session, server, prompt("refused"))
    assert status == 503 and "locked" in str(refused)
    begun = time.monotonic()
    await server.stop()
    assert time.monotonic() - begun < 28
    other.close()
    await server.start()
    entries = await history(session, server)
    assert list(entries) == [first["prompt_id"], told["prompt_id"]]
    assert entries[told["prompt_id"]]["outputs"] == {"2": {"text": ["hello"]}}
    assert not (tmp_path / "user" / "comfyk.db.unsaved").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be taken away there")
@pytest.mark.parametrize("how", ["log deleted", "log cut short", "database deleted"])
async def test_files_that_are_taken_away_stop_what_is_acknowledged_and_cost_nothing(
    make_server, session, prompt, tmp_path, how: str
) -> None:
    server = make_server()
    await server.start()
    for index in range(5):
        assert (await post(session, server, prompt(f"text {index}")))[0] == 200
    before = await ended(session, server, 5)
    async with session.post(server.url + "/queue", json={"pause": True}) as answer:
        assert answer.status == 200
    status, waits = await post(session, server, prompt("waits"))
    assert status == 200
    file = tmp_path / "user" / "comfyk.db"
    if how == "log cut short":
        os.truncate(f"{file}-wal", 0)
    else:
        os.unlink(f"{file}-wal" if how == "log deleted" else file)
    for _ in range(2):
        status, refused = await post(session, server, prompt("refused"))
        assert status == 503
        assert "cut short" in str(refused) or "deleted or replaced" in str(refused)
    await server.kill()
    await server.start()
    found = await ended(session, server, 6)
    assert found == [*before, waits["prompt_id"]]
    assert await server.stop() == 0
