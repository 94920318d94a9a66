"""The entries that are kept in memory are those of the database, whatever happens."""

from __future__ import annotations

import asyncio
import sqlite3
import time

import pytest
from comfyk_storage.job_store import SqlJobStore
from comfyk_storage.opening import open_job_store
from comfyk_storage.recent import RecentEntries


@pytest.fixture
def open_store(tmp_path):
    def open_one(**settings) -> SqlJobStore:
        return open_job_store(f"sqlite:///{tmp_path}/comfyk.db", **settings)

    return open_one


async def finish(store, job, outcome) -> None:
    await store.add(job)
    await store.finish(job, outcome)


async def test_a_recent_entry_needs_no_thread(open_store, make_job, make_outcome, monkeypatch):
    store = open_store()
    await finish(store, make_job("a", user="ann"), make_outcome())
    [(_, entry)] = await store.history()

    async def fail(_):
        raise AssertionError("the database was asked")

    monkeypatch.setattr(store, "_read", fail)
    assert await store.history_entry("a") == entry
    assert await store.history_entry("a", "ann") == entry
    assert await store.history_entry("a", "bob") is None
    monkeypatch.undo()
    await store.close()


async def test_it_is_gone_with_the_history(open_store, make_job, make_outcome):
    store = open_store(history_limit=3)

    async def check() -> list[str]:
        kept = dict(await store.history())
        for job_id in "abcdefghij":
            assert await store.history_entry(job_id) == kept.get(job_id)
        return list(kept)

    for job_id in "abcde":
        await finish(store, make_job(job_id, user="ann" if job_id == "e" else "bob"), make_outcome())
    assert await check() == ["c", "d", "e"]
    await store.delete_history(["d", "e"], "bob")
    assert await check() == ["c", "e"]
    await finish(store, make_job("f", user="bob"), make_outcome())
    await store.clear_history("bob")
    assert await check() == ["e"]
    await store.delete_history(["e"])
    # Finished and deleted in one transaction.
    job = make_job("g")
    await asyncio.gather(store.add(job), store.finish(job, make_outcome()), store.delete_history(["g"]))
    await asyncio.gather(finish(store, make_job("h"), make_outcome()), store.clear_history())
    await store.clear_history()
    assert await check() == []
    await store.close()


async def test_one_that_is_too_old_is_looked_for_in_the_database(
    open_store, make_job, make_outcome, tmp_path
):
    store = open_store(history_max_age_days=1)
    await finish(store, make_job("a"), make_outcome(end=int(time.time() * 1000) - 86_400_001))
    with sqlite3.connect(tmp_path / "comfyk.db") as other:
        other.execute("DELETE FROM comfyk_jobs")  # as retention does once an hour
    other.close()
    assert await store.history_entry("a") is None
    await store.close()


def test_it_is_bounded_by_bytes_and_by_the_limit():
    recent = RecentEntries(0, None, max_bytes=100)
    for number in range(10):
        recent.add(str(number), "u", 0, b"x" * 30)
    assert [n for n in range(10) if recent.get(str(n))] == [7, 8, 9]
    recent.add("big", "u", 0, b"x" * 101)
    assert not any(recent.get(str(n)) for n in range(10)) and recent.get("big") is None
    recent.add("a", "u", 0, b"x" * 100)
    assert recent.get("a") is not None
    limited = RecentEntries(2, None)
    for number in range(5):
        limited.add(str(number), "u", 0, b"x")
    assert [n for n in range(5) if limited.get(str(n))] == [3, 4]
