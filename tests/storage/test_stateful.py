"""Whatever is done to a store, and whenever it is closed and opened again, it equals the one in memory."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from copy import deepcopy

from comfyk.jobs.memory import MemoryJobStore
from comfyk.jobs.model import Job, JobStatus, Outcome
from comfyk.jobs.store import JobQuery, StoreError
from comfyk_storage.job_store import SqlJobStore
from comfyk_storage.opening import open_job_store
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

LIMIT = 4
ids = st.sampled_from("abcdefgh")
users = st.sampled_from(["ann", "bob", None])
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=5,
)
numbers = st.integers(-3, 3) | st.sampled_from([0.5, -1.25])
times = st.integers(0, 50)


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.mkdtemp(prefix="comfyk-stateful-")
        self.model = MemoryJobStore(history_limit=LIMIT)
        self.store = self.open()
        self.jobs: dict[str, Job] = {}

    def open(self) -> SqlJobStore:
        return open_job_store(f"sqlite:///{self.folder}/comfyk.db", history_limit=LIMIT)

    def teardown(self) -> None:
        self.runner.run(self.store.close())
        self.runner.close()
        shutil.rmtree(self.folder)

    def both(self, method: str, *arguments) -> None:
        """Do it to both: the results must be the same, errors included."""
        results = []
        for store in (self.model, self.store):
            try:
                results.append(self.runner.run(getattr(store, method)(*deepcopy(arguments))))
            except StoreError as error:
                results.append((type(error), str(error)))
        assert results[0] == results[1]

    def job(self, job_id: str) -> Job:
        return self.jobs.get(job_id) or Job(job_id, 0, {}, {}, [])

    @rule(job_id=ids, number=numbers, prompt=json_values, user=users, created=times, workflow=json_values)
    def add(self, job_id, number, prompt, user, created, workflow) -> None:
        job = Job(
            id=job_id,
            number=number,
            prompt={"1": prompt},
            extra_data={"extra_pnginfo": {"workflow": {"id": workflow}}},
            targets=["1"],
            sensitive={"token": job_id},
            user=user or "default",
            created_at=created,
        )
        self.both("add", job)
        self.jobs.setdefault(job_id, job)

    @rule(job_id=ids, started=times)
    def start(self, job_id, started) -> None:
        job = self.job(job_id)
        job.attempts += 1
        self.both("start", job, started)

    @rule(
        job_id=ids,
        status=st.sampled_from([JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED]),
        started=st.none() | times,
        finished=times,
        output=json_values,
    )
    def finish(self, job_id, status, started, finished, output) -> None:
        kind = "execution_error" if status is JobStatus.FAILED else "execution_success"
        outcome = Outcome(
            status, started, finished, {"1": {"images": [output]}}, {}, [(kind, {"timestamp": finished})]
        )
        self.both("finish", self.job(job_id), outcome)
        self.forget_absent()

    @rule(job_id=ids)
    def requeue(self, job_id) -> None:
        job = self.job(job_id)
        job.attempts = max(job.attempts - 1, 0)
        self.both("requeue", job)

    @rule(job_id=ids, number=numbers)
    def renumber(self, job_id, number) -> None:
        job = self.job(job_id)
        job.number = number
        self.both("renumber", job)

    @rule(chosen=st.sets(ids))
    def remove(self, chosen) -> None:
        self.both("remove", sorted(chosen))
        self.forget_absent()

    @rule(chosen=st.sets(ids), user=users)
    def delete_history(self, chosen, user) -> None:
        self.both("delete_history", sorted(chosen), user)
        self.forget_absent()

    @rule(user=users)
    def clear_history(self, user) -> None:
        self.both("clear_history", user)
        self.forget_absent()

    @rule()
    def reopen(self) -> None:
        self.runner.run(self.store.close())
        self.store = self.open()
        running, _ = self.runner.run(self.model.list(JobQuery(statuses=[JobStatus.IN_PROGRESS])))
        for line in running:
            self.runner.run(self.model.requeue(self.jobs[line.id]))

    @rule(
        query=st.builds(
            JobQuery,
            statuses=st.none() | st.sets(st.sampled_from(JobStatus)),
            user=users,
            sort_by=st.sampled_from(["created_at", "execution_duration"]),
            descending=st.booleans(),
            limit=st.none() | st.integers(-1, 5),
            offset=st.integers(-1, 5),
        )
    )
    def list(self, query) -> None:
        self.both("list", query)

    @rule(limit=st.none() | st.integers(-1, 5), offset=st.none() | st.integers(-1, 5), user=users)
    def history(self, limit, offset, user) -> None:
        self.both("history", limit, offset, user)

    @rule(job_id=ids, user=users)
    def get(self, job_id, user) -> None:
        self.both("get", job_id, user)

    @invariant()
    def they_are_equal(self) -> None:
        self.both("unfinished")
        self.both("history")
        self.both("list", JobQuery())

    def forget_absent(self) -> None:
        kept = {line.id for line in self.runner.run(self.model.list(JobQuery()))[0]}
        self.jobs = {job_id: job for job_id, job in self.jobs.items() if job_id in kept}


TestStateful = StoreMachine.TestCase
TestStateful.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
