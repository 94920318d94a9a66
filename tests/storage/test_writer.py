"""Group commit: many callers at once, and one among them that fails."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from queue import SimpleQueue

import pytest
from comfyk.jobs.model import JobStatus
from comfyk.jobs.store import DuplicateJobError, JobQuery, StoreError
from comfyk_storage.change import Change
from comfyk_storage.opening import open_job_store
from comfyk_storage.schema import unfinished_row
from comfyk_storage.writer import _Waiting
from sqlalchemy import text


async def gather(*changes):
    return await asyncio.gather(*changes, return_exceptions=True)


async def test_three_hundred_at_once_and_a_duplicate_among_them(database_url, make_job):
    store = open_job_store(database_url)
    try:
        await store.add(make_job("150", number=-1))
        results = await gather(*(store.add(make_job(str(i), number=i)) for i in range(300)))
        failed = [i for i, result in enumerate(results) if result is not None]
        assert failed == [150]
        assert isinstance(results[150], DuplicateJobError)
        assert [job.number for job in await store.unfinished()] == [-1, *range(150), *range(151, 300)]
    finally:
        await store.close()


async def test_of_two_with_one_id_at_once_the_first_wins(database_url, make_job):
    store = open_job_store(database_url)
    try:
        first, second = await gather(store.add(make_job("a", number=1)), store.add(make_job("a", number=2)))
        assert first is None
        assert isinstance(second, DuplicateJobError)
        assert [job.number for job in await store.unfinished()] == [1]
    finally:
        await store.close()


async def test_content_that_the_database_refuses_fails_its_caller_alone(database_url, make_job):
    store = open_job_store(database_url)
    try:
        too_big = make_job("too big", created_at=1 << 80)
        results = await gather(
            store.add(make_job("a")), store.add(too_big), store.add(make_job("nan", number=float("nan")))
        )
        assert results[0] is None
        assert isinstance(results[1], StoreError)
        assert (await store.get("a")) is not None
        assert await store.get("too big") is None
    finally:
        await store.close()


async def test_changes_keep_their_order(database_url, make_job, make_outcome):
    store = open_job_store(database_url)
    try:
        jobs = [make_job(str(i)) for i in range(100)]
        changes = []
        for job in jobs:
            changes += [
                store.add(job),
                store.start(job, 1),
                store.renumber(job),
                store.finish(job, make_outcome()),
            ]
        assert await gather(*changes) == [None] * 400
        assert [job_id for job_id, _ in await store.history()] == [job.id for job in jobs]
    finally:
        await store.close()


async def test_a_caller_that_gives_up_does_not_disturb_the_others(database_url, make_job):
    store = open_job_store(database_url)
    try:
        given_up = asyncio.ensure_future(store.add(make_job("given up")))
        await asyncio.sleep(0)
        given_up.cancel()
        await store.add(make_job("a"))
        assert {job.id for job in await store.unfinished()} == {"given up", "a"}
    finally:
        await store.close()


async def test_closing_writes_what_is_queued_and_then_refuses(database_url, make_job):
    store = open_job_store(database_url)
    queued = [asyncio.ensure_future(store.add(make_job(str(i)))) for i in range(50)]
    await asyncio.sleep(0)
    await store.close()
    assert await asyncio.gather(*queued) == [None] * 50
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.add(make_job("late"))
    with pytest.raises(StoreError):
        await store.history()
    again = open_job_store(database_url)
    assert len(await again.unfinished()) == 50
    await again.close()


class ClosedMeanwhile(SimpleQueue):
    """A queue whose writer is closed by another thread while a change is put into it."""

    def __init__(self, close) -> None:
        super().__init__()
        self._closer = threading.Thread(target=close)
        self.ended = threading.Event()

    def put(self, item, *_) -> None:
        if item is None:
            super().put(item)
            self.ended.set()
            return
        self._closer.start()
        self.ended.wait(0.2)
        super().put(item)


async def test_what_is_queued_while_the_writer_closes_is_written(tmp_path: Path, make_job):
    store = open_job_store(f"sqlite:///{tmp_path}/comfyk.db")
    writer = store._writer
    before = writer._queue
    queue = writer._queue = ClosedMeanwhile(writer.close)
    loop = asyncio.get_running_loop()
    before.put(_Waiting(Change(text("SELECT 1"), []), loop.create_future(), loop))  # so that it looks again
    async with asyncio.timeout(10):
        await store.add(make_job("a"))
        await asyncio.to_thread(queue.ended.wait)
        with pytest.raises(StoreError, match="closed"):
            await store.add(make_job("late"))
    assert (await store.get("a")) is not None
    await store.close()


async def test_what_follows_a_change_may_fail_and_nobody_waits_for_ever(tmp_path: Path, make_job, caplog):
    def fails() -> None:
        raise RuntimeError("the memory of it is full")

    store = open_job_store(f"sqlite:///{tmp_path}/comfyk.db")
    change = Change(store._add, [unfinished_row(make_job("a"), None)], committed=fails)
    async with asyncio.timeout(10):
        first, second = store._writer.submit(change), asyncio.ensure_future(store.add(make_job("b")))
        assert (await first, await second) == (None, None)
        assert {job.id for job in await store.unfinished()} == {"a", "b"}
        await store.close()
    assert "the memory of it is full" in caplog.text


async def test_history_that_is_too_old_is_dropped(database_url, make_job, make_outcome):
    now, day = int(time.time() * 1000), 86_400_000
    store = open_job_store(database_url)
    for job_id, days in [("new", 1), ("old", 8)]:
        await store.add(make_job(job_id))
        await store.finish(make_job(job_id), make_outcome(end=now - days * day))
    await store.close()
    store = open_job_store(database_url, history_max_age_days=7)
    assert [job_id for job_id, _ in await store.history()] == ["new"]
    await store.close()


async def test_a_lower_limit_applies_from_the_next_start(database_url, make_job, make_outcome):
    store = open_job_store(database_url, history_limit=0)
    jobs = [make_job(str(i)) for i in range(20)]
    await gather(*(store.add(job) for job in jobs))
    await gather(*(store.finish(job, make_outcome()) for job in jobs))
    assert len(await store.history()) == 20
    await store.close()
    store = open_job_store(database_url, history_limit=3)
    assert [job_id for job_id, _ in await store.history()] == ["17", "18", "19"]
    await store.close()


async def test_sensitive_data_leaves_the_file_when_the_job_ends(tmp_path: Path, make_job, make_outcome):
    store = open_job_store(f"sqlite:///{tmp_path}/comfyk.db")
    job = make_job("a", sensitive={"token": "very-secret-token"})
    await store.add(job)
    await store.finish(job, make_outcome())
    await store.close()
    for file in tmp_path.iterdir():
        assert b"very-secret-token" not in file.read_bytes()


async def test_what_ran_when_the_server_ended_is_pending_again_and_first(database_url, make_job):
    store = open_job_store(database_url)
    await store.add(make_job("a", number=1))
    ran = make_job("b", number=2, attempts=1)
    await store.add(ran)
    await store.start(ran, 100)
    await store.close()
    store = open_job_store(database_url)
    assert [await store.read(job) for job in await store.unfinished()] == [ran, make_job("a", number=1)]
    assert (await store.list(JobQuery(statuses=[JobStatus.PENDING])))[1] == 2
    await store.remove(["b"])
    assert [job.id for job in await store.unfinished()] == ["a"]
    await store.close()


async def test_a_prompt_that_json_cannot_say_is_refused(database_url, make_job):
    store = open_job_store(database_url)
    with pytest.raises(StoreError, match="Job a cannot be written as JSON"):
        await store.add(make_job("a", prompt={"1": "\ud800"}))
    assert await store.unfinished() == []
    await store.close()
