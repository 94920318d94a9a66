"""What every job store does: in memory, in SQLite and in PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from comfyk.jobs.memory import MemoryJobStore
from comfyk.jobs.model import Job, JobStatus, Outcome
from comfyk.jobs.store import DuplicateJobError, JobQuery, JobStore, UnknownJobError
from comfyk_storage.opening import open_job_store

ENDED = {JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED}


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path) -> AsyncIterator[JobStore]:
    opened: JobStore
    if request.param == "memory":
        opened = MemoryJobStore(history_limit=5)
    elif request.param == "sqlite":
        opened = open_job_store(f"sqlite:///{tmp_path}/comfyk.db", history_limit=5)
    else:
        opened = open_job_store(request.getfixturevalue("postgres")(), history_limit=5)
    yield opened
    await opened.close()


async def ids(store: JobStore, **query) -> list[str]:
    lines, _ = await store.list(JobQuery(**query))
    return [line.id for line in lines]


async def whole(store: JobStore) -> list[Job]:
    """What a server that starts finds of jobs that have not ended, each read."""
    return [await store.read(job) for job in await store.unfinished()]


async def run(store: JobStore, job, outcome) -> None:
    await store.add(job)
    await store.start(job, outcome.started_at)
    await store.finish(job, outcome)


async def test_unfinished_jobs_come_back_whole(store, make_job):
    job = make_job("a", workflow="w", number=2.5, sensitive={"token": "t"}, user="ann")
    await store.add(job)
    assert await whole(store) == [job]


async def test_unfinished_order_is_running_then_number_then_age(store, make_job):
    for job_id, number in [
        ("late", 9),
        ("first of two", 1),
        ("second of two", 1),
        ("front", -3),
        ("runs", 5),
    ]:
        await store.add(make_job(job_id, number=number))
    runs = make_job("runs", number=5, attempts=1)
    await store.start(runs, 123)
    order = [job.id for job in await store.unfinished()]
    assert order == ["runs", "front", "first of two", "second of two", "late"]
    assert (await store.unfinished())[0].attempts == 1


async def test_a_job_may_be_added_as_one_that_runs(store, make_job, make_outcome):
    await store.add(make_job("waits", number=0))
    runs = make_job("runs", number=5, attempts=1)
    await store.add(runs, started_at=123)
    assert [job.id for job in await store.unfinished()] == ["runs", "waits"]
    assert await ids(store, statuses=[JobStatus.IN_PROGRESS]) == ["runs"]
    detail = await store.get("runs")
    assert detail.summary.execution_start_time == 123
    with pytest.raises(DuplicateJobError):
        await store.add(make_job("runs"))
    await store.finish(runs, make_outcome())
    assert await ids(store, statuses=ENDED) == ["runs"]


async def test_renumbering_moves_a_job(store, make_job):
    await store.add(make_job("a", number=1))
    await store.add(make_job("b", number=2))
    await store.renumber(make_job("b", number=0))
    await store.renumber(make_job("gone", number=0))
    assert [(job.id, job.number) for job in await store.unfinished()] == [("b", 0), ("a", 1)]


async def test_an_id_is_taken_once(store, make_job, make_outcome):
    await store.add(make_job("a"))
    with pytest.raises(DuplicateJobError, match="id a already"):
        await store.add(make_job("a", number=7))
    await store.finish(make_job("a"), make_outcome())
    with pytest.raises(DuplicateJobError):
        await store.add(make_job("a"))
    assert await store.unfinished() == []


async def test_what_is_not_in_the_queue_can_neither_start_nor_end(store, make_job, make_outcome):
    with pytest.raises(UnknownJobError):
        await store.start(make_job("a"), 1)
    with pytest.raises(UnknownJobError):
        await store.finish(make_job("a"), make_outcome())
    await store.add(make_job("a"))
    await store.finish(make_job("a"), make_outcome())
    with pytest.raises(UnknownJobError):
        await store.finish(make_job("a"), make_outcome(JobStatus.FAILED))
    assert len(await store.history()) == 1


async def test_only_pending_jobs_are_removed(store, make_job, make_outcome):
    for job_id in ("pending", "running", "ended"):
        await store.add(make_job(job_id))
    await store.start(make_job("running", attempts=1), 1)
    await store.finish(make_job("ended"), make_outcome())
    await store.remove(["pending", "running", "ended", "unknown"])
    await store.remove([])
    assert sorted(await ids(store)) == ["ended", "running"]
    await store.add(make_job("pending"))


async def test_history_entries_are_as_comfyui_shows_them(store, make_job, make_outcome):
    job = make_job("a", number=4, sensitive={"token": "secret"})
    await run(store, job, make_outcome())
    [(job_id, entry)] = await store.history()
    assert job_id == "a"
    assert json.loads(entry) == {
        "prompt": [4, "a", job.prompt, job.extra_data, ["9"]],
        "outputs": make_outcome().outputs,
        "status": {
            "status_str": "success",
            "completed": True,
            "messages": [["execution_start", {"timestamp": 100}], ["execution_success", {"timestamp": 200}]],
            "status_code": 100,
        },
        "meta": make_outcome().meta,
        "timestamp": make_outcome().finished_at / 1000,
    }
    assert await store.history_entry("a") == entry
    assert await store.history_entry("b") is None


async def test_history_pages(store, make_job, make_outcome):
    for job_id in "cabed":
        await run(store, make_job(job_id), make_outcome())

    async def page(limit=None, offset=None):
        whole = await store.history(limit, offset)
        parts = [part async for part in store.history_parts(limit, offset)]
        assert len(parts) == 1 and parts[0] == whole
        return "".join([job_id for job_id, _ in whole])

    assert await page() == "cabed"
    assert await page(limit=2) == "ed"
    assert await page(limit=9) == "cabed"
    assert await page(limit=2, offset=1) == "ab"
    assert await page(offset=3) == "ed"
    assert await page(offset=9) == ""
    assert await page(limit=0) == ""
    assert await page(limit=-1) == ""
    assert await page(limit=2, offset=-1) == "ed"


async def test_a_large_history_comes_in_parts(store, make_job, make_outcome):
    sizes = {"a": 400_000, "b": 400_000, "c": 400_000, "d": 3_000_000, "e": 10}
    for job_id, size in sizes.items():
        user = "bob" if job_id == "b" else "ann"
        outcome = make_outcome()
        outcome.outputs = {"1": {"text": ["x" * size]}}
        await run(store, make_job(job_id, user=user), outcome)
    whole = await store.history()
    assert len(whole) == 5

    async def parts(**which):
        return ["".join(job_id for job_id, _ in part) async for part in store.history_parts(**which)]

    assert await parts() == ["ab", "c", "d", "e"]
    assert [entry async for part in store.history_parts() for entry in part] == whole
    assert await parts(user="ann") == ["ac", "d", "e"]
    assert await parts(limit=3) == ["c", "d", "e"]
    assert await parts(limit=2, offset=0) == ["ab"]
    assert await store.history_fitting(10) == (1, 5)  # one is sent, however large it is
    assert await store.history_fitting(3_500_000) == (3, 5)
    assert await store.history_fitting(10_000_000) == (5, 5)
    assert await store.history_fitting(3_500_000, "ann") == (3, 4)
    assert await store.history_fitting(0, "nobody") == (0, 0)
    reading = store.history_parts()
    assert [job_id for job_id, _ in await anext(reading)] == ["a", "b"]
    await store.delete_history(["c"])
    await run(store, make_job("late"), make_outcome())
    rest = [job_id async for part in reading for job_id, _ in part]
    assert rest == ["d", "e"]  # what was there at the beginning and still is


async def test_the_oldest_history_beyond_the_limit_is_dropped(store, make_job, make_outcome):
    for job_id in "abcdefg":
        await run(store, make_job(job_id), make_outcome())
    assert [job_id for job_id, _ in await store.history()] == list("cdefg")
    await store.delete_history(["d", "unknown"])
    await run(store, make_job("h"), make_outcome())
    assert [job_id for job_id, _ in await store.history()] == list("cefgh")
    await run(store, make_job("i"), make_outcome())
    assert [job_id for job_id, _ in await store.history()] == list("efghi")
    assert await store.get("a") is None


async def test_users_see_their_own(store, make_job, make_outcome):
    for job_id, user in [("a", "ann"), ("b", "bob"), ("c", "ann")]:
        await run(store, make_job(job_id, user=user), make_outcome())
    assert [job_id for job_id, _ in await store.history(user="ann")] == ["a", "c"]
    assert [job_id for job_id, _ in await store.history(limit=1, user="ann")] == ["c"]
    assert await store.history_entry("b", user="ann") is None
    assert await store.get("b", user="ann") is None
    assert await ids(store, user="bob") == ["b"]
    await store.delete_history(["a", "b"], user="ann")
    assert [job_id for job_id, _ in await store.history()] == ["b", "c"]
    await store.clear_history(user="bob")
    assert [job_id for job_id, _ in await store.history()] == ["c"]
    await store.add(make_job("d"))
    await store.clear_history()
    assert await ids(store) == ["d"]


async def test_listing_filters_sorts_and_pages(store, make_job, make_outcome):
    await run(store, make_job("slow", workflow="w", created_at=10), make_outcome(start=0, end=900))
    await run(store, make_job("quick", created_at=20), make_outcome(JobStatus.FAILED, start=0, end=5))
    never_ran = Outcome(JobStatus.CANCELLED, started_at=None, finished_at=40)
    await store.add(make_job("never", created_at=30))
    await store.finish(make_job("never", created_at=30), never_ran)
    running = make_job("running", workflow="w", created_at=40, attempts=1)
    await store.add(running)
    await store.start(running, 41)
    await store.add(make_job("pending", created_at=40))

    assert await ids(store) == ["pending", "running", "never", "quick", "slow"]
    assert await ids(store, descending=False) == ["slow", "quick", "never", "running", "pending"]
    assert (await ids(store, sort_by="execution_duration"))[:2] == ["slow", "quick"]
    assert await ids(store, workflow_id="w") == ["running", "slow"]
    assert await ids(store, statuses=ENDED) == ["never", "quick", "slow"]
    assert await ids(store, statuses=[JobStatus.PENDING]) == ["pending"]
    assert await ids(store, statuses=[]) == []
    lines, total = await store.list(JobQuery(limit=2, offset=1))
    assert ([line.id for line in lines], total) == (["running", "never"], 5)
    assert await store.list(JobQuery(limit=0)) == ([], 5)
    assert await store.list(JobQuery(offset=9)) == ([], 5)


async def test_lines_of_the_list(store, make_job, make_outcome):
    job = make_job("a", workflow="w", number=3)
    await store.add(job)
    [line], _ = await store.list(JobQuery())
    assert (line.status, line.priority, line.outputs_count) == (JobStatus.PENDING, 3, 0)
    assert (line.execution_start_time, line.execution_end_time, line.preview_output) == (None, None, None)
    await store.start(job, 100)
    [line], _ = await store.list(JobQuery())
    assert (line.status, line.execution_start_time) == (JobStatus.IN_PROGRESS, 100)
    await store.finish(job, make_outcome())
    [line], _ = await store.list(JobQuery())
    assert line.status is JobStatus.COMPLETED
    assert (line.create_time, line.execution_end_time, line.workflow_id) == (job.created_at, 200, "w")
    assert (line.outputs_count, line.previewable_outputs_count) == (1, 1)
    assert line.preview_output == {
        "mediaType": "images",
        "filename": "a.png",
        "subfolder": "",
        "type": "output",
        "nodeId": "9",
    }
    failed = make_outcome(JobStatus.FAILED)
    await run(store, make_job("b", created_at=0), failed)
    [line], _ = await store.list(JobQuery(statuses=[JobStatus.FAILED]))
    assert line.execution_error == {"timestamp": 200}


async def test_details(store, make_job, make_outcome):
    job = make_job("a", workflow="w", sensitive={"token": "secret"}, user="ann")
    await store.add(job)
    detail = await store.get("a", user="ann")
    assert detail.job == make_job("a", workflow="w", user="ann")
    assert detail.outcome is None
    job.attempts = 2
    await store.start(job, 100)
    await store.finish(job, make_outcome())
    detail = await store.get("a")
    assert detail.job == make_job("a", workflow="w", user="ann", attempts=2)
    assert detail.outcome == make_outcome()
    assert detail.summary.id == "a"
    assert await store.get("b") is None


async def test_odd_but_valid_content_survives(store, make_job, make_outcome):
    text = "\u0000 \U0001f600 ' \" \\ %s :x ?"
    job = make_job("a'\"%s:x?", prompt={text: {text: [text, None, True, 1.5, -(2**53)]}}, user="%s ünï")
    await store.add(job)
    assert await whole(store) == [job]
    await store.finish(job, make_outcome())
    detail = await store.get(job.id, user="%s ünï")
    assert detail.job == job


async def test_what_has_no_json_form_is_kept_as_near_as_possible(store, make_job, make_outcome):
    class Odd:
        def __str__(self) -> str:
            raise RuntimeError

    loop: list = ["a"]
    loop.append(loop)
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    values = {"images": [{"filename": "\udcff.png", "type": "output"}], "v": [loop, Odd(), b"\xff", 1 << 70]}
    await store.add(make_job("a"))
    outcome = make_outcome()
    outcome.outputs = {"9": values, "8": {"deep": deep}}
    await store.finish(make_job("a"), outcome)
    detail = await store.get("a")
    assert detail.outcome.outputs["9"] == {
        "images": [{"filename": "?.png", "type": "output"}],
        "v": [["a", "..."], "<Odd, whose text cannot be had: RuntimeError>", "b'\\xff'", 1 << 70],
    }
    assert (await store.list(JobQuery()))[1] == 1


async def test_a_deeply_nested_prompt_comes_back(store, make_job, make_outcome):
    value: list = []
    for _ in range(199):
        value = [value]
    job = make_job("a", prompt={"1": value})
    await store.add(job)
    assert await whole(store) == [job]
    await store.finish(job, make_outcome())
    assert (await store.get("a")).job == job


async def test_a_running_job_is_put_back(store, make_job):
    job = make_job("a", number=5, attempts=1)
    await store.add(make_job("b", number=1))
    await store.add(job)
    await store.start(job, 100)
    job.attempts = 0
    await store.requeue(job)
    assert [job.id for job in await store.unfinished()] == ["b", "a"]
    [line], _ = await store.list(JobQuery(limit=1, descending=False, offset=1))
    assert (line.id, line.status, line.execution_start_time) == ("a", JobStatus.PENDING, None)
    with pytest.raises(UnknownJobError):
        await store.requeue(make_job("c"))
