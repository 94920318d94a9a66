"""Whatever two servers do with one PostgreSQL, and whenever leases run out: who holds what is as in the model."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

from comfyk.jobs import Job, JobStatus, LeaseLostError, Outcome, StoreError, UnknownJobError
from comfyk_storage.opening import open_job_store
from comfyk_storage.shared_store import SharedSqlJobStore
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

LIMIT = 3
SERVERS = ("ann", "bob")
servers = st.sampled_from(SERVERS)
ids = st.sampled_from("abcdef")
numbers = st.integers(-3, 3)


@dataclass
class Kept:
    """A job that has not ended, as it should be."""

    age: int
    number: float
    attempts: int = 0
    owner: str | None = None
    runs: bool = False
    lapsed: bool = False
    cancel: bool = False


def machine(url: str) -> type[RuleBasedStateMachine]:
    class LeaseMachine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.runner = asyncio.Runner()
            self.stores = {name: self.open(name) for name in SERVERS}
            self.sql("DELETE FROM comfyk_jobs", "UPDATE comfyk_history_count SET last_seq = 0, finished = 0")
            self.kept: dict[str, Kept] = {}
            self.history: dict[str, str | None] = {}
            """Who ended what, oldest first."""
            self.ages = 0

        def open(self, name: str) -> SharedSqlJobStore:
            store = open_job_store(url, server_name=name, lease_s=3600, history_limit=LIMIT)
            assert isinstance(store, SharedSqlJobStore)
            return store

        def teardown(self) -> None:
            for store in self.stores.values():
                self.runner.run(store.close())
            self.runner.close()

        def sql(self, *statements: str) -> None:
            with self.stores["ann"]._engine.begin() as connection:
                for statement in statements:
                    connection.exec_driver_sql(statement)

        def do(self, name: str, method: str, *arguments: Any, **options: Any) -> Any:
            """The result, or the type of the StoreError."""
            try:
                return self.runner.run(getattr(self.stores[name], method)(*arguments, **options))
            except StoreError as error:
                return type(error)

        def job(self, job_id: str) -> Job:
            kept = self.kept.get(job_id, Kept(0, 0))
            return Job(job_id, kept.number, {}, {}, [], attempts=kept.attempts)

        def expected_error(self, name: str, job_id: str) -> type[StoreError] | None:
            if job_id in self.kept:
                return None if self.kept[job_id].owner in (None, name) else LeaseLostError
            ended_by = self.history.get(job_id, name)
            return LeaseLostError if ended_by not in (None, name) else UnknownJobError

        @rule(name=servers, job_id=ids, number=numbers, runs=st.booleans())
        def add(self, name, job_id, number, runs) -> None:
            job = Job(job_id, number, {}, {}, [], attempts=int(runs))
            result = self.do(name, "add", job, 1 if runs else None)
            if job_id in self.kept or job_id in self.history:
                assert result is not None
                return
            self.ages += 1
            self.kept[job_id] = Kept(self.ages, number, int(runs), name if runs else None, runs)

        @rule(name=servers)
        def take(self, name) -> None:
            free = [
                (not kept.runs, kept.attempts == 0, kept.number, kept.age, job_id)
                for job_id, kept in self.kept.items()
                if not kept.runs or kept.lapsed
            ]
            taken = self.do(name, "take")
            assert (taken and taken.id) == (min(free)[-1] if free else None)
            if taken is not None:
                kept = self.kept[taken.id]
                assert (taken.attempts, taken.number) == (kept.attempts, kept.number)
                self.kept[taken.id] = replace(kept, owner=name, runs=True, lapsed=False)

        @rule(name=servers, job_id=ids)
        def start(self, name, job_id) -> None:
            job = self.job(job_id)
            job.attempts += 1
            error = self.expected_error(name, job_id)
            assert self.do(name, "start", job, 1) == error
            if error is None:
                kept = self.kept[job_id]
                self.kept[job_id] = replace(kept, attempts=job.attempts, owner=name, runs=True, lapsed=False)

        @rule(name=servers, job_id=ids)
        def requeue(self, name, job_id) -> None:
            error = self.expected_error(name, job_id)
            assert self.do(name, "requeue", self.job(job_id)) == error
            if error is None:
                self.kept[job_id] = replace(self.kept[job_id], owner=name, runs=False, lapsed=False)

        @rule(name=servers, job_id=ids)
        def finish(self, name, job_id) -> None:
            error = self.expected_error(name, job_id)
            assert self.do(name, "finish", self.job(job_id), Outcome(JobStatus.COMPLETED, 1, 2)) == error
            if error is None:
                del self.kept[job_id]
                self.history[job_id] = name
                if len(self.history) > LIMIT:
                    del self.history[next(iter(self.history))]

        @rule(job_id=ids)
        def run_out(self, job_id) -> None:
            self.sql(
                "UPDATE comfyk_jobs SET lease_until = now() - interval '1 s' "
                f"WHERE id = '{job_id}' AND status = 'in_progress'"
            )
            if job_id in self.kept and self.kept[job_id].runs:
                self.kept[job_id].lapsed = True

        @rule(name=servers, chosen=st.sets(ids))
        def renew(self, name, chosen) -> None:
            renewal = self.do(name, "renew", sorted(chosen))
            held = {i for i in chosen if (kept := self.kept.get(i)) and kept.runs and kept.owner == name}
            assert renewal.held == held
            assert renewal.to_cancel == {i for i in held if self.kept[i].cancel}
            for job_id in held:
                self.kept[job_id].lapsed = False

        @rule(name=servers, job_id=ids)
        def ask_to_cancel(self, name, job_id) -> None:
            runs = job_id in self.kept and self.kept[job_id].runs
            assert self.do(name, "ask_to_cancel", job_id) is runs
            if runs:
                self.kept[job_id].cancel = True

        @rule(name=servers, chosen=st.none() | st.sets(ids))
        def take_out(self, name, chosen) -> None:
            waiting = {
                i for i, kept in self.kept.items() if not kept.runs and (chosen is None or i in chosen)
            }
            assert {job.id for job in self.do(name, "take_out", chosen)} == waiting
            for job_id in waiting:
                del self.kept[job_id]

        @rule(name=servers, job_id=ids, number=st.none() | numbers, front=st.booleans())
        def place(self, name, job_id, number, front) -> None:
            waits = job_id in self.kept and not self.kept[job_id].runs
            assert self.do(name, "place", job_id, number=number, front=front) is waits
            if waits:
                others = [kept.number for i, kept in self.kept.items() if i != job_id and not kept.runs]
                beyond = min(others, default=0) - 1 if front else max(others, default=0) + 1
                self.kept[job_id].number = beyond if number is None else number

        @rule(name=servers, chosen=st.none() | st.sets(ids))
        def delete_history(self, name, chosen) -> None:
            self.do(name, "clear_history") if chosen is None else self.do(name, "delete_history", chosen)
            self.history = {i: by for i, by in self.history.items() if chosen is not None and i not in chosen}

        @rule(name=servers)
        def restart(self, name) -> None:
            """What it held waits again; what it ended was ended by someone who is no more."""
            self.runner.run(self.stores[name].close())
            self.stores[name] = self.open(name)
            for job_id, kept in self.kept.items():
                if kept.owner == name:
                    # Put back as the new one's; what waited already is its predecessor's.
                    owner = name if kept.runs else f"late {name}"
                    self.kept[job_id] = replace(kept, owner=owner, runs=False, lapsed=False)
            self.history = {i: f"late {name}" if by == name else by for i, by in self.history.items()}

        @invariant()
        def both_see_the_same(self) -> None:
            for name in SERVERS:
                running, waiting = self.do(name, "listing")
                assert {job.id for job in running} == {i for i, kept in self.kept.items() if kept.runs}
                order = sorted(
                    (k.attempts == 0, k.number, k.age, i) for i, k in self.kept.items() if not k.runs
                )
                assert [job.id for job in waiting] == [line[-1] for line in order]
                assert self.do(name, "remaining").jobs == len(self.kept)
                assert [job_id for job_id, _ in self.do(name, "history")] == list(self.history)
                assert set(self.do(name, "ended", list("abcdef"))) == set("abcdef") - self.kept.keys()

    return LeaseMachine


def test_two_servers(postgres):
    run_state_machine_as_test(
        machine(postgres()), settings=settings(max_examples=25, stateful_step_count=30, deadline=None)
    )
