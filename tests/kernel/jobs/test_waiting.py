"""Jobs that wait: they lie in the store as bytes, so many at most, and are read when their turn comes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from comfyk import hookimpl
from comfyk.app import App
from comfyk.context import check_interrupted
from comfyk.events import JobEnded
from comfyk.jobs import MemoryJobStore, QueueFullError, StoreError, UnreadableJobError
from comfyk.jobs.model import Job, JobStatus
from comfyk.plugins import Plugins
from comfyk.settings import load_settings


class Note:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"text": ("STRING",)}})
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    def run(self, text):
        return {"ui": {"text": [text]}}


class Hold(Note):
    """Runs until it is interrupted."""

    def run(self, text):
        while True:
            check_interrupted()


def prompt(text: str, kind: str = "Note") -> dict:
    return {"1": {"class_type": kind, "inputs": {"text": text}}}


class Store(MemoryJobStore):
    """Some jobs cannot be read, and reading takes its time when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.damaged: set[str] = set()
        self.failing = 0
        self.reads: list[str] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.reading = asyncio.Event()

    async def read(self, job):
        self.reads.append(job.id)
        self.reading.set()
        await self.go_on.wait()
        if self.failing:
            self.failing -= 1
            raise StoreError("the disk cannot be read")
        if job.id in self.damaged:
            raise UnreadableJobError(job, "it is damaged")
        return await super().read(job)


@pytest.fixture
def make_app(tmp_path: Path):
    def make(store: MemoryJobStore, *more: object, max_waiting_mb: int = 1) -> App:
        plugins = Plugins()
        for index, plugin in enumerate(more):
            plugins.register(plugin, f"plugin{index}")
        overrides = {"folders.base": str(tmp_path), "jobs.max_waiting_mb": max_waiting_mb}
        app = App(load_settings(plugins, overrides=overrides), plugins, store=store)
        app.nodes.add(Note)
        app.nodes.add(Hold)
        return app

    return make


async def ended(app: App, *ids: str) -> list[JobStatus]:
    waiting = [asyncio.ensure_future(app.jobs.wait(job_id)) for job_id in ids]
    await asyncio.sleep(0)
    app.jobs.resume()
    outcomes = await asyncio.wait_for(asyncio.gather(*waiting), 10)
    return [outcome.status for outcome in outcomes]


async def test_what_waits_is_limited_in_bytes_and_room_comes_back(make_app) -> None:
    store = Store()
    async with make_app(store) as app:
        app.jobs.pause()
        large = [(await app.jobs.submit(prompt("x" * 300_000))).job.id for _ in range(3)]
        for _ in range(2):
            with pytest.raises(QueueFullError, match=r"jobs\.max_waiting_mb") as refused:
                await app.jobs.submit(prompt("x" * 300_000))
            assert not refused.value.never
        small = (await app.jobs.submit(prompt("small"))).job.id
        with pytest.raises(QueueFullError, match="more than all that wait may take") as refused:
            await app.jobs.submit(prompt("x" * 1_000_000))
        assert refused.value.never
        assert app.jobs.remaining == 4
        await app.jobs.delete([large[0]])
        again = (await app.jobs.submit(prompt("x" * 300_000))).job.id
        at_once = await asyncio.gather(
            *(app.jobs.submit(prompt("x" * 60_000)) for _ in range(3)), return_exceptions=True
        )
        assert sum(isinstance(one, QueueFullError) for one in at_once) == 2
        assert store.reads == [], "what waits is not read"
        assert set(await ended(app, *large[1:], small, again)) == {JobStatus.COMPLETED}
        app.jobs.pause()
        await app.jobs.submit(prompt("x" * 900_000))


async def test_a_prompt_that_need_not_wait_is_not_read_again(make_app) -> None:
    store = Store()
    async with make_app(store) as app:
        submission = await app.jobs.submit(prompt("x" * 2_000_000))
        assert (await asyncio.wait_for(app.jobs.wait(submission.job.id), 10)).status is JobStatus.COMPLETED
    assert store.reads == []


async def test_a_job_that_cannot_be_read_fails_and_those_behind_it_run(make_app) -> None:
    store = Store()
    async with make_app(store) as app:
        app.jobs.pause()
        ids = [(await app.jobs.submit(prompt(text), extra_data={"client_id": "c"})).job.id for text in "abc"]
        store.damaged = set(ids[:2])
        told = []
        app.events.subscribe(lambda event: told.append(event), JobEnded)
        assert await ended(app, *ids) == [JobStatus.FAILED, JobStatus.FAILED, JobStatus.COMPLETED]
        assert [(event.job_id, event.client_id) for event in told] == [(job_id, "c") for job_id in ids]
    detail = await store.get(ids[0])
    assert detail is not None and detail.outcome is not None
    assert detail.outcome.error["exception_type"] == "UnreadableJob"
    assert "it is damaged" in detail.outcome.error["exception_message"]


async def test_a_job_that_was_tried_too_often_and_cannot_be_read_does_not_stop_the_start(make_app) -> None:
    store = Store()
    for text in ("tried", "damaged"):
        job = Job(text, 0, prompt(text), {}, ["1"], attempts=2)
        await store.add(job)
        await store.start(job, 1)
    store.damaged = {"damaged"}
    async with make_app(store) as app:
        assert app.jobs.remaining == 0
    kinds = [(await store.get(text)).outcome.error["exception_type"] for text in ("tried", "damaged")]
    assert kinds == ["JobCrashed", "UnreadableJob"]


async def test_a_store_that_fails_to_read_is_asked_again(make_app, monkeypatch) -> None:
    monkeypatch.setattr("comfyk.jobs.queue.POLL_S", 0.01)
    store = Store()
    async with make_app(store) as app:
        app.jobs.pause()
        job = (await app.jobs.submit(prompt("a"))).job.id
        store.failing = 3
        assert await ended(app, job) == [JobStatus.COMPLETED]
        assert store.reads == [job] * 4


async def reading(app: App, store: Store) -> None:
    """The first job in line is being read."""
    store.go_on.clear()
    store.reading.clear()
    app.jobs.resume()
    await asyncio.wait_for(store.reading.wait(), 10)


async def test_a_job_that_is_being_read_still_waits_for_all_to_see(make_app) -> None:
    store = Store()
    async with make_app(store) as app:
        app.jobs.pause()
        first, second, third = [(await app.jobs.submit(prompt(text))).job.id for text in "abc"]
        await reading(app, store)
        _, pending = await app.jobs.listing()
        assert [job.id for job in pending] == [first, second, third]
        assert app.jobs.remaining == 3
        assert await app.jobs.delete([first]) == [first]
        assert await app.jobs.move(third, front=True)
        store.go_on.set()
        assert await ended(app, second, third) == [JobStatus.COMPLETED] * 2
    assert [job_id for job_id, _ in await store.history()] == [third, second]


async def test_none_is_started_once_the_queue_is_paused_though_it_is_being_read(make_app) -> None:
    store = Store()
    async with make_app(store) as app:
        app.jobs.pause()
        job = (await app.jobs.submit(prompt("a"))).job.id
        await reading(app, store)
        app.jobs.pause()
        store.go_on.set()
        await asyncio.sleep(0.05)
        assert [waiting.id for waiting in (await app.jobs.listing())[1]] == [job]
        assert await ended(app, job) == [JobStatus.COMPLETED]


async def test_who_hears_of_a_jobs_end_gets_it_whole_though_it_never_ran(make_app) -> None:
    heard = {}

    class Plugin:
        @hookimpl
        def comfyk_job_finished(self, job, outcome):
            heard[job.id] = (job.prompt, outcome.status)

    store = Store()
    async with make_app(store, Plugin(), max_waiting_mb=10) as app:
        app.jobs.pause()
        prompts = [prompt(text * 600_000) for text in "abc"]
        ids = [(await app.jobs.submit(one)).job.id for one in prompts]
        damaged = (await app.jobs.submit(prompt("d"))).job.id
        store.damaged = {damaged}
        assert await app.jobs.clear() == [*ids, damaged]
        assert heard == {
            **{job_id: (one, JobStatus.CANCELLED) for job_id, one in zip(ids, prompts, strict=True)},
            damaged: ({}, JobStatus.CANCELLED),
        }
        assert app.jobs.remaining == 0


async def test_a_job_that_is_moved_about_keeps_its_last_place(make_app) -> None:
    async with make_app(Store()) as app:
        app.jobs.pause()
        ids = [(await app.jobs.submit(prompt(text))).job.id for text in "abc"]
        for number in range(2000):
            await app.jobs.move(ids[0], number=number)
        assert [job.id for job in (await app.jobs.listing())[1]] == [ids[1], ids[2], ids[0]]
