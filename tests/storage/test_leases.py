"""Several stores on one PostgreSQL: who has which job, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from comfyk.jobs import JobQuery, JobStatus, LeaseLostError, SharedJobStore, StoreError, UnknownJobError, pack
from comfyk_storage.opening import open_job_store
from comfyk_storage.shared_store import SharedSqlJobStore

Open = Callable[..., SharedSqlJobStore]
LONG, SHORT = 60, 0.3


@pytest.fixture
async def open_store(postgres) -> AsyncIterator[Open]:
    """`open_store("ann", lease_s=1)`: another server's store, of one database."""
    url, opened = postgres(), []

    def open_one(name: str, lease_s: float = LONG, **settings) -> SharedSqlJobStore:
        store = open_job_store(url, server_name=name, lease_s=lease_s, **settings)
        assert isinstance(store, SharedSqlJobStore)
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        await store.close()


def test_only_postgresql_is_shared(tmp_path):
    store = open_job_store(f"sqlite:///{tmp_path}/comfyk.db")
    assert not isinstance(store, SharedJobStore)
    asyncio.run(store.close())


async def test_no_two_servers_get_the_same_job(open_store, make_job):
    ann, bob = open_store("ann"), open_store("bob")
    assert isinstance(ann, SharedJobStore)
    for i in range(40):
        await ann.add(make_job(f"{i}", number=i))

    taken = []
    for _ in range(20):
        at_once = await asyncio.gather(ann.take(), bob.take())
        taken += [int(job.id) for job in at_once if job is not None]
        assert set(taken) == set(range(len(taken)))  # in order, but for the two
    assert len(taken) == 40
    assert await asyncio.gather(ann.take(), bob.take()) == [None, None]


async def test_a_taken_job_is_whole(open_store, make_job):
    ann, bob = open_store("ann"), open_store("bob")
    job = make_job("a", sensitive={"token": "t"}, number=2.5, user="ann", workflow="w")
    await ann.add(job)
    assert await bob.take() == job
    assert await bob.take() is None


async def test_the_order_is_run_out_then_tried_then_number_then_age(open_store, make_job):
    ann, bob = open_store("ann", lease_s=SHORT), open_store("bob")
    await ann.add(make_job("run out", number=9, attempts=1), started_at=1)
    for job_id, number in [("late", 5), ("first of two", 1), ("second of two", 1), ("front", -3)]:
        await ann.add(make_job(job_id, number=number))
    await ann.add(make_job("tried", number=8, attempts=1))
    await asyncio.sleep(SHORT * 1.5)
    taken = [(job.id, job.attempts) for _ in range(6) if (job := await bob.take())]
    assert taken == [
        ("run out", 1), ("tried", 1), ("front", 0), ("first of two", 0), ("second of two", 0), ("late", 0),
    ]  # fmt: skip


async def test_a_job_that_is_added_as_running_is_taken(open_store, make_job, make_outcome):
    ann, bob = open_store("ann"), open_store("bob")
    job = make_job("a", attempts=1)
    await ann.add(job, started_at=5)
    assert await bob.take() is None
    with pytest.raises(LeaseLostError, match="'ann'"):
        await bob.finish(job, make_outcome())
    await ann.finish(job, make_outcome())
    assert [job_id for job_id, _ in await bob.history()] == ["a"]


async def test_a_lease_that_ran_out_is_another_servers(open_store, make_job, make_outcome):
    ann, bob = open_store("ann", lease_s=SHORT), open_store("bob")
    job = make_job("a")
    await ann.add(job)
    assert (await ann.take()) == job
    job.attempts = 1
    await ann.start(job, 1)
    assert await bob.take() is None
    await asyncio.sleep(SHORT * 1.5)
    taken = await bob.take()
    assert taken is not None and taken.attempts == 1
    assert (await ann.renew(["a"])).held == frozenset()
    for change in (ann.start(job, 2), ann.requeue(job), ann.finish(job, make_outcome())):
        with pytest.raises(LeaseLostError, match="taken over by the server 'bob'"):
            await change
    taken.attempts = 2
    await bob.start(taken, 3)
    await bob.finish(taken, make_outcome(JobStatus.FAILED))
    with pytest.raises(LeaseLostError):
        await ann.finish(job, make_outcome())
    with pytest.raises(UnknownJobError):
        await bob.finish(taken, make_outcome())
    lines, count = await ann.list(JobQuery())
    assert (count, lines[0].status) == (1, JobStatus.FAILED)


async def test_what_was_given_back_by_the_next_one_is_lost_too(open_store, make_job, make_outcome):
    ann, bob = open_store("ann", lease_s=SHORT), open_store("bob")
    await ann.add(make_job("a", attempts=1), started_at=1)
    await asyncio.sleep(SHORT * 1.5)
    taken = await bob.take()
    assert taken is not None
    await bob.requeue(taken)
    with pytest.raises(LeaseLostError):
        await ann.finish(make_job("a"), make_outcome())
    assert (await ann.take()) is not None
    await ann.finish(taken, make_outcome())


async def test_renewing_keeps_a_job_and_one_that_is_not_named_runs_out(open_store, make_job):
    ann, bob = open_store("ann", lease_s=SHORT), open_store("bob")
    for job_id in "ab":
        await ann.add(make_job(job_id), started_at=1)
    for _ in range(8):
        await asyncio.sleep(SHORT / 4)
        renewal = await ann.renew(["a", "unknown"])
        assert (renewal.held, renewal.to_cancel) == ({"a"}, set())
    assert [job.id for _ in range(2) if (job := await bob.take())] == ["b"]


async def test_a_lease_that_ran_out_and_that_nobody_took_goes_on(open_store, make_job, make_outcome):
    ann = open_store("ann", lease_s=SHORT)
    await ann.add(make_job("a"), started_at=1)
    await asyncio.sleep(SHORT * 1.5)
    assert (await ann.renew(["a"])).held == {"a"}
    assert await ann.take() is None
    await asyncio.sleep(SHORT * 1.5)
    await ann.finish(make_job("a"), make_outcome())


async def test_a_server_that_starts_puts_back_what_its_predecessor_held(open_store, make_job, make_outcome):
    ann, bob = open_store("ann"), open_store("bob")
    await bob.add(make_job("bob's", attempts=1), started_at=1)
    await ann.add(make_job("ann's", attempts=1), started_at=1)
    await ann.close()
    again = open_store("ann")
    assert [job.id for job in (await again.listing())[0]] == ["bob's"]
    taken = await again.take()
    assert taken is not None and (taken.id, taken.attempts) == ("ann's", 1)
    assert await again.take() is None
    await bob.finish(make_job("bob's"), make_outcome())


async def test_two_servers_of_one_name_are_refused(open_store):
    open_store("ann")
    with pytest.raises(StoreError, match=r"comfyk of the name 'ann'.*storage\.server_name"):
        open_store("ann")


async def test_asking_another_server_to_cancel(open_store, make_job, make_outcome):
    ann, bob = open_store("ann"), open_store("bob")
    await ann.add(make_job("a"))
    assert not await bob.ask_to_cancel("a")
    assert await ann.take() is not None
    assert await bob.ask_to_cancel("a")
    renewal = await ann.renew(["a"])
    assert (renewal.held, renewal.to_cancel) == ({"a"}, {"a"})
    await ann.finish(make_job("a"), make_outcome(JobStatus.CANCELLED))
    assert not await bob.ask_to_cancel("a")


async def test_what_others_see(open_store, make_job, make_outcome):
    ann, bob = open_store("ann"), open_store("bob")
    await ann.add(make_job("runs", user="x", sensitive={"token": "t"}), started_at=1)
    for job_id, number in [("second", 2), ("first", 1)]:
        await ann.add(make_job(job_id, number=number, sensitive={"token": "t"}))
    running, pending = await bob.listing()
    assert ([job.id for job in running], [job.id for job in pending]) == (["runs"], ["first", "second"])
    assert [[job.id for job in jobs] for jobs in await bob.listing("x")] == [["runs"], []]
    size = pack(make_job("first", sensitive={"token": "t"})).size
    assert [job.size for job in pending] == [size, size]
    assert await bob.remaining() == (3, 2, 2 * size)
    assert list(await bob.ended(["runs", "first", "gone"])) == ["gone"]
    await ann.finish(make_job("runs"), make_outcome())
    assert list(await bob.ended(["runs", "first"])) == ["runs"]
    assert await bob.remaining() == (2, 2, 2 * size)


async def test_taking_out_and_moving(open_store, make_job):
    ann, bob = open_store("ann"), open_store("bob")
    await ann.add(make_job("runs", number=0), started_at=1)
    for number, job_id in enumerate("abcd", 1):
        await ann.add(make_job(job_id, number=number, user="x" if job_id == "d" else "default"))

    async def order() -> list[str]:
        return [job.id for job in (await ann.listing())[1]]

    assert await bob.place("c", number=None, front=True)
    assert await order() == ["c", "a", "b", "d"]
    assert await bob.place("a", number=None, front=False)
    assert await bob.place("d", number=0.5, front=False)
    assert await order() == ["c", "d", "b", "a"]
    assert not await bob.place("runs", number=None, front=True)
    assert not await bob.place("gone", number=1, front=False)
    at_once = await asyncio.gather(ann.take_out(["a", "runs"]), bob.take_out(["a", "gone"]))
    assert [job.id for jobs in at_once for job in jobs] == ["a"]
    assert [job.id for job in await bob.take_out(None, "x")] == ["d"]
    assert sorted(job.id for job in await bob.take_out(None)) == ["b", "c"]
    assert await ann.remaining() == (1, 0, 0)


async def test_the_history_is_one_and_no_longer_than_its_limit(open_store, make_job, make_outcome):
    stores = [open_store(name, history_limit=7) for name in ("ann", "bob", "eve")]

    async def work(store, name: str) -> None:
        for i in range(20):
            job = make_job(f"{name}{i}")
            await store.add(job, started_at=1)
            await store.finish(job, make_outcome())
            assert len(await store.history()) <= 7
            if i % 5 == 4:
                await store.delete_history([f"{name}{i}"])

    await asyncio.gather(*(work(store, name) for store, name in zip(stores, "abe", strict=True)))
    await stores[0].clear_history()
    jobs = [make_job(f"last{i}") for i in range(9)]
    for store, job in zip(stores * 3, jobs, strict=True):
        await store.add(job, started_at=1)
        await store.finish(job, make_outcome())
    kept = [job_id for job_id, _ in await stores[1].history()]
    assert kept == [f"last{i}" for i in range(2, 9)]
    assert await stores[2].history_entry("last8") is not None
    await stores[0].delete_history(["last8"])
    assert await stores[2].history_entry("last8") is None


async def test_a_server_that_stops_within_a_change_holds_the_others_up_for_no_longer_than_a_lease(
    open_store, make_job, make_outcome
):
    ann, bob = open_store("ann", lease_s=0.5), open_store("bob")
    await ann.add(make_job("a"), started_at=1)
    connection = ann._writer._connection
    assert connection is not None
    connection.exec_driver_sql("UPDATE comfyk_history_count SET finished = finished")
    await bob.add(make_job("b"), started_at=1)
    await asyncio.wait_for(bob.finish(make_job("b"), make_outcome()), 4)


async def test_a_lost_connection_is_opened_anew_with_its_name(postgres, make_job, make_outcome):
    import psycopg

    url = postgres()
    store = open_job_store(url, server_name="ann")
    await store.add(make_job("a"), started_at=1)
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    with pytest.raises(StoreError, match=r"connection was lost"):
        await store.finish(make_job("a"), make_outcome())
    await store.finish(make_job("a"), make_outcome())
    with pytest.raises(StoreError, match=r"of the name 'ann'"):
        open_job_store(url, server_name="ann")
    await store.close()
