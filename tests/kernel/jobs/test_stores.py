"""History entries, and what is particular to the store in memory; `tests/storage` has what all stores do."""

from __future__ import annotations

import json

import pytest
from comfyk.jobs.history import finished_summary, history_entry_json
from comfyk.jobs.memory import MemoryJobStore
from comfyk.jobs.model import Job, JobStatus, Outcome


def make_job(job_id: str = "a", **fields) -> Job:
    return Job(**{"id": job_id, "number": 1, "prompt": {}, "extra_data": {}, "targets": ["9"], **fields})


@pytest.mark.parametrize(
    ("status", "status_str", "completed"),
    [
        (JobStatus.COMPLETED, "success", True),
        (JobStatus.FAILED, "error", False),
        (JobStatus.CANCELLED, "error", False),
    ],
)
def test_the_status_of_an_entry(status, status_str, completed):
    entry = json.loads(history_entry_json(make_job(), Outcome(status, None, 5)))
    assert list(entry) == ["prompt", "outputs", "status", "meta", "timestamp"]
    assert entry["status"] == {
        "status_str": status_str,
        "completed": completed,
        "messages": [],
        "status_code": 100 if completed else 0,
    }
    assert entry["timestamp"] == 0.005


def test_an_entry_holds_nothing_sensitive():
    job = make_job(sensitive={"api_key": "secret"})
    assert b"secret" not in history_entry_json(job, Outcome(JobStatus.COMPLETED, 1, 2))


def test_what_json_cannot_say_is_said_in_words():
    outcome = Outcome(JobStatus.COMPLETED, 1, 2, {"1": {"values": [float("nan"), {3: object}]}})
    entry = json.loads(history_entry_json(make_job(), outcome))
    assert entry["outputs"] == {"1": {"values": [None, {"3": "<class 'object'>"}]}}


def test_the_error_of_a_failed_job_is_in_its_line():
    error = {"node_id": "3", "exception_message": "no"}
    outcome = Outcome(JobStatus.FAILED, 1, 9, messages=[("execution_start", {}), ("execution_error", error)])
    assert finished_summary(make_job(), outcome).execution_error == error


@pytest.mark.parametrize(
    ("extra_data", "workflow_id"),
    [
        ({"extra_pnginfo": {"workflow": {"id": "w"}}}, "w"),
        ({"extra_pnginfo": {"workflow": {"id": 5}}}, None),
        ({"extra_pnginfo": {"workflow": None}}, None),
        ({"extra_pnginfo": ["workflow"]}, None),
        ({"extra_pnginfo": None}, None),
        ({}, None),
    ],
)
def test_the_workflow_id_is_found_where_it_is_well_formed(extra_data, workflow_id):
    assert make_job(extra_data=extra_data).workflow_id == workflow_id


async def test_changing_a_job_does_not_change_what_was_kept():
    store = MemoryJobStore()
    job = make_job()
    await store.add(job)
    job.number, job.attempts = 7, 3
    [kept] = await store.unfinished()
    assert (kept.number, kept.attempts) == (1, 0)
    kept.number = 9
    assert (await store.unfinished())[0].number == 1


async def test_without_a_limit_all_history_is_kept():
    store = MemoryJobStore(history_limit=0)
    for i in range(20):
        await store.add(make_job(str(i)))
        await store.finish(make_job(str(i)), Outcome(JobStatus.COMPLETED, 1, 2))
    assert len(await store.history()) == 20
    await store.close()
