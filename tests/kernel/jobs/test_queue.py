"""The queue: which job runs next, and that none is lost."""

from __future__ import annotations

import asyncio
import json
import uuid

import pytest
from comfyk import hookimpl
from comfyk.app import App
from comfyk.context import check_interrupted
from comfyk.events import JobEnded
from comfyk.graph.validation import PromptError
from comfyk.jobs.memory import MemoryJobStore
from comfyk.jobs.model import Job, JobStatus
from comfyk.jobs.store import DuplicateJobError, StoreError
from comfyk.plugins import Plugins
from comfyk.settings import load_settings


class Note:
    """Notes that it ran."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"text": ("STRING",)}})
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    NOT_IDEMPOTENT = True
    notes: list

    @classmethod
    def IS_CHANGED(cls, text):
        return float("nan")

    def run(self, text):
        self.notes.append(text)
        return {"ui": {"text": [text]}}


class Hold(Note):
    """Runs until it is interrupted."""

    def run(self, text):
        while True:
            check_interrupted()


@pytest.fixture(autouse=True)
def notes():
    Note.notes = []
    return Note.notes


def prompt(text, kind="Note"):
    return {"1": {"class_type": kind, "inputs": {"text": text}}}


async def held(kernel):
    """A kernel whose queue is busy with a job that does not end by itself."""
    k = await kernel(Note, Hold)
    running = asyncio.Event()
    k.app.events.subscribe(lambda event: running.set() if event.type == "executing" else None)
    submission = await k.app.jobs.submit(prompt("hold", "Hold"))
    await asyncio.wait_for(running.wait(), 10)
    return k, submission.job.id


async def finish(k, job, *others):
    waiting = [asyncio.ensure_future(k.app.jobs.wait(other)) for other in others]
    await asyncio.sleep(0)
    k.app.jobs.interrupt(job)
    return await asyncio.wait_for(asyncio.gather(*waiting), 10)


async def test_jobs_run_by_number_then_by_age_and_front_comes_first(kernel, notes):
    k, job = await held(kernel)
    submit = k.app.jobs.submit
    ids = [
        (await submit(prompt("later"), number=100)).job.id,
        (await submit(prompt("first in line"))).job.id,
        (await submit(prompt("second in line"))).job.id,
        (await submit(prompt("front"), front=True)).job.id,
        (await submit(prompt("also later"), number=100)).job.id,
    ]
    _, pending = await k.app.jobs.listing()
    [[(front, body), *_]] = [part async for part in k.app.jobs.bodies(pending)]
    assert (front.id, json.loads(body)[0]) == (ids[3], prompt("front"))
    assert k.app.jobs.remaining == 6
    await finish(k, job, *ids)
    assert notes == ["front", "first in line", "second in line", "later", "also later"]


async def test_a_waiting_job_can_be_moved_taken_out_and_cancelled(kernel, notes):
    k, job = await held(kernel)
    a, b, c, d = [(await k.app.jobs.submit(prompt(text))).job.id for text in "abcd"]
    assert await k.app.jobs.move(c, front=True)
    assert await k.app.jobs.move(a)
    assert not await k.app.jobs.move("unknown")
    cancelled = asyncio.ensure_future(k.app.jobs.wait(b))
    await asyncio.sleep(0)
    assert await k.app.jobs.delete([b, "unknown", b]) == [b]
    assert (await cancelled).status is JobStatus.CANCELLED
    assert await k.app.jobs.cancel(d) is JobStatus.PENDING
    assert await k.app.jobs.cancel(d) is None
    await finish(k, job, a, c)
    assert notes == ["c", "a"]


async def test_clear_takes_out_what_waits_and_not_what_runs(kernel):
    k, job = await held(kernel)
    await k.app.jobs.submit(prompt("a"), user="ann")
    await k.app.jobs.submit(prompt("b"), user="bob")
    assert len(await k.app.jobs.clear(user="ann")) == 1
    assert [job.user for job in (await k.app.jobs.listing())[1]] == ["bob"]
    await k.app.jobs.clear()
    assert [waiting.id for waiting in k.app.jobs.running] == [job]
    assert await k.app.jobs.cancel(job) is JobStatus.IN_PROGRESS


async def test_a_paused_queue_starts_nothing(kernel, notes):
    k = await kernel(Note)
    k.app.jobs.pause()
    submission = await k.app.jobs.submit(prompt("a"))
    for _ in range(20):
        await asyncio.sleep(0)
    assert len((await k.app.jobs.listing())[1]) == 1 and not notes
    waiting = asyncio.ensure_future(k.app.jobs.wait(submission.job.id))
    await asyncio.sleep(0)
    k.app.jobs.resume()
    await asyncio.wait_for(waiting, 10)
    assert notes == ["a"]


async def test_an_id_is_used_once(kernel):
    k = await kernel(Note)
    job_id = str(uuid.uuid4())
    await k.run(prompt("a"), job_id=job_id)
    with pytest.raises(DuplicateJobError):
        await k.app.jobs.submit(prompt("b"), job_id=job_id)
    with pytest.raises(KeyError):
        await k.app.jobs.wait(job_id)


async def test_a_job_cancelled_at_its_start_does_not_run(kernel, notes):
    k = await kernel(Note)
    ended = asyncio.get_running_loop().create_future()
    k.app.events.subscribe(ended.set_result, JobEnded)
    submission = await k.app.jobs.submit(prompt("a"))
    k.app.jobs.interrupt(submission.job.id)
    event = await asyncio.wait_for(ended, 10)
    assert (event.job_id, event.status) == (submission.job.id, "cancelled")
    assert not notes


async def test_a_prompt_is_refused_by_a_plugin_too_and_can_be_changed_by_one(kernel, notes):
    class Plugin:
        @hookimpl
        def comfyk_validate_prompt(self, app, prompt):
            inputs = prompt["1"]["inputs"]
            if inputs["text"] == "forbidden":
                return {"1": [{"type": "policy", "message": "Not here", "details": "", "extra_info": {}}]}
            inputs["text"] += "!"

    k = await kernel(Note, plugins=[Plugin()])
    with pytest.raises(PromptError) as error:
        await k.app.jobs.submit(prompt("forbidden"))
    assert error.value.node_errors["1"]["errors"][0]["type"] == "policy"
    await k.run(prompt("allowed"))
    assert notes == ["allowed!"]


async def test_freeing_waits_for_the_running_job(kernel):
    freed = []

    class Plugin:
        @hookimpl
        def comfyk_free_memory(self, app, unload_models, free_memory):
            freed.append((unload_models, free_memory))
            return {"models": 2}

    k = await kernel(Note, Hold, plugins=[Plugin()])
    assert (await k.app.jobs.free(unload_models=True, free_memory=False)) == {"models": 2}
    submission = await k.app.jobs.submit(prompt("hold", "Hold"))
    while not k.app.jobs.running:
        await asyncio.sleep(0)
    assert await k.app.jobs.free(unload_models=False, free_memory=True) == {"deferred": True}
    last = (await k.app.jobs.submit(prompt("after"))).job.id
    await finish(k, submission.job.id, last)
    assert freed == [(True, False), (False, True)]


class Restartable:
    """Apps one after another on the same store."""

    def __init__(self, tmp_path, store):
        self.base, self.store = tmp_path, store

    def app(self):
        store = self.store

        class Plugin:
            @hookimpl
            def comfyk_open_job_store(self, app):
                return store

        plugins = Plugins()
        plugins.register(Plugin(), "store")
        app = App(load_settings(plugins, overrides={"folders.base": str(self.base)}), plugins)
        app.nodes.add(Note)
        app.nodes.add(Hold)
        return app


async def test_what_waited_and_what_ran_is_there_after_a_restart(tmp_path, notes):
    restartable = Restartable(tmp_path, MemoryJobStore())
    async with restartable.app() as app:
        running = asyncio.Event()
        app.events.subscribe(lambda event: running.set() if event.type == "executing" else None)
        held = (await app.jobs.submit(prompt("held", "Hold"))).job
        await asyncio.wait_for(running.wait(), 10)
        waiting = (await app.jobs.submit(prompt("waited"))).job
    unfinished = await restartable.store.unfinished()
    assert [(job.id, job.attempts) for job in unfinished] == [(held.id, 0), (waiting.id, 0)]

    async with restartable.app() as app:
        assert app.jobs.remaining == 2
        while not app.jobs.running:
            await asyncio.sleep(0)
        new = (await app.jobs.submit(prompt("new"))).job
        assert new.number > waiting.number
        ends = [asyncio.ensure_future(app.jobs.wait(job.id)) for job in (waiting, new)]
        await asyncio.sleep(0)
        app.jobs.interrupt(held.id)
        await asyncio.wait_for(asyncio.gather(*ends), 10)
    assert notes == ["waited", "new"]
    assert not await restartable.store.unfinished()


async def test_a_job_that_ended_the_process_twice_fails_with_that_reason(tmp_path, notes):
    store = MemoryJobStore()
    for text, attempts in [("once", 1), ("twice", 2)]:
        job = Job(text, 0, prompt(text), {}, ["1"], attempts=attempts)
        await store.add(job)
        await store.start(job, 1)
    async with Restartable(tmp_path, store).app() as app:
        await asyncio.wait_for(app.jobs.wait("once"), 10)
    assert notes == ["once"]
    detail = await store.get("twice")
    assert detail is not None and detail.outcome is not None
    assert detail.outcome.status is JobStatus.FAILED
    assert detail.outcome.error["exception_type"] == "JobCrashed"
    assert "2 times" in detail.outcome.error["exception_message"]


class Unwell(MemoryJobStore):
    """A store that fails when it is told to."""

    failing: tuple = ()

    async def add(self, job, started_at=None):
        self._maybe("add")
        await super().add(job, started_at)

    async def start(self, job, started_at):
        self._maybe("start")
        await super().start(job, started_at)

    async def finish(self, job, outcome):
        self._maybe("finish")
        await super().finish(job, outcome)

    async def remove(self, ids):
        self._maybe("remove")
        await super().remove(ids)

    def _maybe(self, what):
        if what in self.failing:
            self.failing = tuple(name for name in self.failing if name != what)
            raise StoreError(f"the disk is full ({what})")


async def test_a_store_that_fails_for_a_while_loses_nothing(tmp_path, notes, monkeypatch):
    monkeypatch.setattr("comfyk.jobs.running._RETRY_FIRST_S", 0.01)
    store = Unwell()
    async with Restartable(tmp_path, store).app() as app:
        store.failing = ("add",)
        with pytest.raises(StoreError, match="the disk is full"):
            await app.jobs.submit(prompt("refused"))
        assert app.jobs.remaining == 0
        app.jobs.pause()
        job = (await app.jobs.submit(prompt("kept"))).job
        store.failing = ("start", "finish")
        app.jobs.resume()
        assert (await asyncio.wait_for(app.jobs.wait(job.id), 10)).status is JobStatus.COMPLETED
        app.jobs.pause()
        job = (await app.jobs.submit(prompt("waits"))).job
        store.failing = ("remove",)
        with pytest.raises(StoreError):
            await app.jobs.delete([job.id])
        assert [waiting.id for waiting in (await app.jobs.listing())[1]] == [job.id]
    assert notes == ["kept"]
