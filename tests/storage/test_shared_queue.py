"""Queues over one PostgreSQL: what becomes of a job whose lease is lost, and who is told of ends elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from comfyk.app import App
from comfyk.events import Event, JobEnded
from comfyk.hooks import hookimpl
from comfyk.jobs import ExecutorDied, Job, JobStatus, Outcome, QueueFullError, StoreError
from comfyk.jobs.other_servers import OtherServers
from comfyk.plugins import Plugins
from comfyk.settings import load_settings
from comfyk_storage.opening import open_job_store
from comfyk_storage.shared_store import SharedSqlJobStore

LEASE_S = 0.6


class Say:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"text": ("STRING",)}})
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    def run(self, text): ...


PROMPT = {"1": {"class_type": "Say", "inputs": {"text": "a"}}}


class Held:
    """An executor whose jobs run until the test lets them end."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.running: dict[str, asyncio.Future[JobStatus]] = {}
        self.begun: list[str] = []

    async def start(self, capacity_changed: Callable[[], None]) -> None: ...

    async def stop(self) -> None: ...

    def prepare(self, job: Job) -> Awaitable[Any] | None: ...

    async def run(self, job: Job, tell: Callable[[Event], None]) -> Outcome:
        assert job.id not in self.running
        self.running[job.id] = asyncio.get_running_loop().create_future()
        self.begun.append(job.id)
        try:
            return Outcome(await self.running[job.id], 1, 2)
        finally:
            del self.running[job.id]

    def interrupt(self, job_id: str) -> None:
        if job_id in self.running and not self.running[job_id].done():
            self.running[job_id].set_result(JobStatus.CANCELLED)

    async def free(self, *, unload_models: bool, free_memory: bool) -> dict[str, Any]:
        return {}

    def end(self, job_id: str) -> None:
        self.running[job_id].set_result(JobStatus.COMPLETED)


class Server:
    """An app of one node."""

    def __init__(self, app: App, store: SharedSqlJobStore, executor: Held) -> None:
        self.app, self.store, self.executor = app, store, executor
        self.queue = app.jobs
        self.ended: list[tuple[str, str]] = []
        app.events.subscribe(lambda event: self.ended.append((event.job_id, event.status)), JobEnded)

    async def submit(self, **options: Any) -> str:
        return (await self.queue.submit(PROMPT, **options)).job.id


Start = Callable[..., Awaitable[Server]]


@pytest.fixture
async def start(postgres, tmp_path) -> AsyncIterator[Start]:
    """`await start("ann", capacity=2)`: a server of that name, all of them on one database."""
    url, apps = postgres(), []

    async def start_one(name: str, capacity: int = 1, **settings: Any) -> Server:
        executor = Held(capacity)

        class Plugin:
            @hookimpl
            def comfyk_create_executor(self) -> Held:
                return executor

        plugins = Plugins()
        plugins.register(Plugin(), "held")
        store = open_job_store(url, server_name=name, lease_s=LEASE_S, busy_timeout_s=0.2)
        assert isinstance(store, SharedSqlJobStore)
        overrides = {
            "folders.base": str(tmp_path),
            **{f"jobs.{key}": value for key, value in settings.items()},
        }
        app = App(load_settings(plugins, overrides=overrides), plugins, store=store)
        app.nodes.add(Say)
        await app.start()
        apps.append(app)
        return Server(app, store, executor)

    yield start_one
    for app in apps:
        await app.stop()


async def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def history(server: Server) -> list[str]:
    return [job_id for job_id, _ in await server.store.history()]


async def test_waiting_for_a_job_that_runs_elsewhere(start):
    here, there = await start("here"), await start("there")
    here.queue.pause()
    job = await here.submit()
    waiting = [asyncio.ensure_future(server.queue.wait(job)) for server in (here, there)]
    await until(lambda: job in there.executor.running)
    late = asyncio.ensure_future(here.queue.wait(job))
    there.executor.end(job)
    outcomes = await asyncio.wait_for(asyncio.gather(*waiting, late), 10)
    assert [outcome.status for outcome in outcomes] == [JobStatus.COMPLETED] * 3
    assert here.ended == there.ended == [(job, "completed")]
    with pytest.raises(KeyError):
        await here.queue.wait(job)


async def test_waiting_for_a_job_that_came_in_elsewhere(start):
    here, there = await start("here"), await start("there")
    job = await there.submit()
    await until(lambda: job in there.executor.running)
    waiting = asyncio.ensure_future(here.queue.wait(job))
    await asyncio.sleep(0.1)
    there.executor.end(job)
    assert (await asyncio.wait_for(waiting, 10)).status is JobStatus.COMPLETED
    assert here.ended == []  # its clients are not here


async def test_a_job_that_another_server_takes_out_is_told_as_cancelled(start):
    here, there = await start("here"), await start("there")
    here.queue.pause()
    there.queue.pause()
    job = await here.submit()
    waiting = asyncio.ensure_future(here.queue.wait(job))
    assert await there.queue.delete([job]) == [job]
    assert (await asyncio.wait_for(waiting, 10)).status is JobStatus.CANCELLED
    assert here.ended == there.ended == [(job, "cancelled")]


class Failing:
    """Makes a store's connection look lost."""

    def __init__(self, store: SharedSqlJobStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lost = False
        transaction = store._writer._transaction

        def fail(changes):
            if self.lost:
                raise StoreError("the connection was lost")
            return transaction(changes)

        monkeypatch.setattr(store._writer, "_transaction", fail)


async def test_a_server_without_its_database_gives_its_job_up_and_another_runs_it(start, monkeypatch):
    here, there = await start("here"), await start("there")
    there.queue.pause()
    job = await here.submit()
    await until(lambda: job in here.executor.running)
    there.queue.resume()
    connection = Failing(here.store, monkeypatch)
    connection.lost = True
    await until(lambda: job in there.executor.running)
    await until(lambda: job not in here.executor.running)
    there.executor.end(job)
    await until(lambda: there.ended)
    connection.lost = False
    await until(lambda: here.ended)
    assert here.ended == there.ended == [(job, "completed")]
    assert here.executor.begun == there.executor.begun == [job]
    assert await history(here) == [job]


async def test_a_server_alone_runs_again_what_it_had_given_up(start, monkeypatch):
    here = await start("here", capacity=2)
    job = await here.submit()
    await until(lambda: job in here.executor.running)
    connection = Failing(here.store, monkeypatch)
    connection.lost = True
    await until(lambda: job not in here.executor.running)
    connection.lost = False
    await until(lambda: job in here.executor.running)
    here.executor.end(job)
    await until(lambda: here.ended)
    assert here.executor.begun == [job, job]
    assert here.ended == [(job, "completed")]
    assert await history(here) == [job]
    await until(lambda: here.queue.remaining == 0)


@pytest.fixture
def renew_nothing(monkeypatch) -> Callable[[Server], None]:
    """Have a server neglect its leases without noticing."""

    renew = OtherServers._renew

    def neglect(server: Server) -> None:
        async def some(others: OtherServers) -> None:
            if others._store is not server.store:
                await renew(others)

        monkeypatch.setattr(OtherServers, "_renew", some)

    return neglect


async def test_a_lease_that_ran_out_unnoticed_goes_on_when_it_is_taken_anew(
    start, renew_nothing, monkeypatch
):
    here = await start("here", capacity=3)
    job = await here.submit()
    await until(lambda: job in here.executor.running)
    renew_nothing(here)
    await asyncio.sleep(LEASE_S * 3)
    monkeypatch.undo()
    here.executor.end(job)
    await until(lambda: here.ended)
    assert here.executor.begun == [job]
    assert here.ended == [(job, "completed")]
    assert here.queue.remaining == 0


async def test_an_outcome_that_cannot_be_stored_is_stored_later_once(start, monkeypatch):
    here, there = await start("here"), await start("there")
    there.queue.pause()
    job = await here.submit()
    await until(lambda: job in here.executor.running)
    connection = Failing(here.store, monkeypatch)
    connection.lost = True
    here.executor.end(job)
    await asyncio.sleep(LEASE_S * 2)
    assert here.ended == [] and await history(there) == []
    connection.lost = False
    await until(lambda: here.ended)
    assert await history(there) == [job]
    assert here.executor.begun == [job]


@pytest.mark.parametrize("how", ["ends", "dies"])
async def test_what_becomes_of_a_job_here_that_another_server_has_is_void(start, renew_nothing, how):
    here, there = await start("here"), await start("there")
    there.queue.pause()
    job = await here.submit()
    await until(lambda: job in here.executor.running)
    renew_nothing(here)
    there.queue.resume()
    await until(lambda: job in there.executor.running)
    if how == "ends":
        here.executor.end(job)
    else:
        here.executor.running[job].set_exception(ExecutorDied("gone"))
    await until(lambda: not here.queue.running)
    assert await history(here) == [] and here.ended == []
    there.executor.end(job)
    await until(lambda: there.ended)
    await until(lambda: here.ended)
    assert await history(there) == [job]
    assert here.ended == there.ended == [(job, "completed")]


@pytest.mark.parametrize("turns", range(4))
async def test_a_stop_in_the_moment_of_being_woken(start, turns):
    here = await start("here")
    await asyncio.sleep(0.05)
    here.queue.resume()
    for _ in range(turns):
        await asyncio.sleep(0)
    await asyncio.wait_for(here.queue.stop(), 5)


async def test_numbers_go_on_from_each_others(start):
    here, there = await start("here"), await start("there")
    here.queue.pause()
    jobs = [await here.submit() for _ in range(5)]
    for job in jobs[:2]:
        await until(lambda job=job: job in there.executor.running)
        there.executor.end(job)
    await until(lambda: jobs[2] in there.executor.running)
    later = await there.submit()
    _, pending = await here.queue.listing()
    assert [job.id for job in pending] == [jobs[3], later, jobs[4]]
    there.queue.pause()


async def test_what_waits_is_limited_wherever_it_came_in(start):
    here, there = [await start(name, max_waiting_mb=1) for name in ("here", "there")]
    here.queue.pause()
    there.queue.pause()
    large = {"extra_data": {"text": "x" * 700_000}}
    first = await here.submit(**large)
    with pytest.raises(QueueFullError, match=r"jobs\.max_waiting_mb"):
        await here.submit(**large)
    await until(lambda: there.queue.remaining == 1)
    with pytest.raises(QueueFullError):
        await there.submit(**large)
    assert await there.queue.delete([first]) == [first]
    again = await there.submit(**large)
    there.queue.resume()
    await until(lambda: again in there.executor.running)
    async with asyncio.timeout(10):
        while True:  # until it has heard that there is room
            with contextlib.suppress(QueueFullError):
                last = await here.submit(**large)
                break
            await asyncio.sleep(0.05)
    there.executor.end(again)
    await until(lambda: last in there.executor.running)
    there.executor.end(last)


async def test_a_job_that_cannot_be_read_is_told_of_where_it_came_in(start, postgres):
    here, there = await start("here"), await start("there")
    here.queue.pause()
    there.queue.pause()
    job, next_job = await here.submit(), await here.submit()
    with here.store._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE comfyk_jobs SET body = 'nonsense' WHERE id = %s", (job,))
    waiting = asyncio.ensure_future(here.queue.wait(job))
    await asyncio.sleep(0)
    there.queue.resume()
    outcome = await asyncio.wait_for(waiting, 10)
    assert outcome.error["exception_type"] == "UnreadableJob"
    await until(lambda: next_job in there.executor.running)
    there.executor.end(next_job)
    await until(lambda: len(here.ended) == 2)
    assert here.ended == there.ended == [(job, "failed"), (next_job, "completed")]
