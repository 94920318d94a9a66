"""Rows that hold no job: each is set aside and told of, and all others are as they were."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from comfyk.jobs import JobQuery, JobStatus, UnknownJobError, UnreadableJobError
from comfyk_storage.diagnosis import diagnose
from comfyk_storage.opening import open_job_store
from sqlalchemy import create_engine, text

SECRET = "the secret"
HEADS = {
    "status": "'lost'",
    "status ": "x'ff'",
    "number": "'abc'",
    "number ": "9e999",
    "attempts": "'many'",
    "created_at": "x'00'",
    "started_at": "'noon'",
    "user": "CAST(x'ff' AS TEXT)",
    "id": "CAST(x'fffe' AS TEXT)",
    "workflow_id": "CAST(x'ff' AS TEXT)",
    "body": "NULL",
    "body ": "'text'",
}
BODIES = {
    "no JSON": b"{broken",
    "cut short": b'[{"9": {"class_type": "X", "inputs": {"images": ["8", 0]',
    "zeros": b"\0" * 40_000,
    "a number": b"5",
    "another list": b"[1, 2]",
    "no prompt": b"[[], {}, []]",
    "no extra data": b'[{}, "x", []]',
    "no targets": b"[{}, {}, [1]]",
    "empty": b"",
    "an old one": b'{"prompt": {}}',
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "comfyk.db"


async def fill(file: Path, make_job, *more) -> None:
    store = open_job_store(f"sqlite:///{file}")
    for job in (make_job("good", number=1), make_job("bad", sensitive={"token": SECRET}), *more):
        await store.add(job)
    await store.close()


def change(file: Path, sql: str, *values) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute(sql, values)
    connection.close()


@pytest.mark.parametrize("column", HEADS)
async def test_a_row_that_is_no_job_does_not_keep_the_store_from_opening(
    file, make_job, caplog, column: str
) -> None:
    await fill(file, make_job)
    change(file, f"UPDATE comfyk_jobs SET \"{column.strip()}\" = {HEADS[column]} WHERE id = 'bad'")
    for _ in range(2):
        store = open_job_store(f"sqlite:///{file}")
        assert [job.id for job in await store.unfinished()] == ["good"]
        [line], _ = await store.list(JobQuery(statuses=[JobStatus.FAILED]))
        assert line.id == ("unreadable-2" if column == "id" else "bad")
        assert line.execution_error["exception_type"] == "UnreadableJob"
        [(job_id, entry)] = await store.history()
        assert (
            job_id == line.id
            and "cannot be read" in json.loads(entry)["status"]["messages"][-1][1]["exception_message"]
        )
        await store.close()
    [record] = [one for one in caplog.records if "was set aside" in one.message]
    assert line.id in record.message
    [finding] = [one for one in diagnose(f"sqlite:///{file}") if one.severity == "warning"]
    assert "1 jobs that could not be read" in finding.message and line.id in finding.message


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_what_a_job_runs_may_be_damaged(file, make_job, make_outcome, body: bytes) -> None:
    await fill(file, make_job)
    change(file, "UPDATE comfyk_jobs SET body = ? WHERE id = 'bad'", body)
    store = open_job_store(f"sqlite:///{file}")
    good, bad = sorted(await store.unfinished(), key=lambda job: job.id == "bad")
    assert (good.id, bad.id) == ("good", "bad")
    assert await store.read(good) == make_job("good", number=1)
    with pytest.raises(UnreadableJobError, match="Job bad cannot be read") as error:
        await store.read(bad)
    assert error.value.job is bad
    assert list(await store.bodies(["bad", "good"])) == ["good"]
    await store.set_aside(bad, make_outcome(JobStatus.FAILED))
    with pytest.raises(UnknownJobError):
        await store.read(bad)
    assert [job_id for job_id, _ in await store.history()] == ["bad"]
    await store.close()
    assert [one.severity for one in diagnose(f"sqlite:///{file}")].count("warning") == 1
    left = (
        sqlite3.connect(file).execute("SELECT body, sensitive FROM comfyk_jobs WHERE id = 'bad'").fetchone()
    )
    assert left == (body, None)
    store = open_job_store(f"sqlite:///{file}")
    await store.delete_history(["bad"])
    await store.close()
    assert [one for one in diagnose(f"sqlite:///{file}") if one.severity == "warning"] == []


async def test_what_an_earlier_version_stored_is_read(file, make_job) -> None:
    await fill(file, make_job, make_job("large", extra_data={"text": "x" * 2_000_000}))
    for job_id in ("good", "large"):
        with sqlite3.connect(file) as connection:
            [(body,)] = connection.execute("SELECT body FROM comfyk_jobs WHERE id = ?", [job_id])
        prompt, extra_data, targets = json.loads(body)
        older = json.dumps({"prompt": prompt, "extra_data": extra_data, "targets": targets}).encode()
        change(file, "UPDATE comfyk_jobs SET body = ? WHERE id = ?", older, job_id)
    store = open_job_store(f"sqlite:///{file}")
    jobs = {job.id: job for job in await store.unfinished()}
    assert await store.read(jobs["good"]) == make_job("good", number=1)
    bodies = await store.bodies(["good", "large"])
    assert json.loads(bodies["large"])[1] == {"text": "x" * 2_000_000}
    assert json.loads(bodies["good"])[2] == ["9"]
    await store.close()


async def test_a_page_of_a_large_job_that_is_damaged_costs_that_job(file, make_job, make_outcome) -> None:
    await fill(file, make_job, make_job("large", extra_data={"text": "x" * 400_000}))
    content = bytearray(file.read_bytes())
    pages = [place for place in range(0, len(content), 4096) if content[place + 4 :].startswith(b"x" * 4000)]
    assert len(pages) > 50
    content[pages[10] : pages[10] + 4] = b"\xff\xff\xff\x7f"  # where the next page is
    file.write_bytes(content)
    store = open_job_store(f"sqlite:///{file}")
    large = next(job for job in await store.unfinished() if job.id == "large")
    assert large.size > 400_000
    with pytest.raises(UnreadableJobError, match="the database is damaged there"):
        await store.read(large)
    assert set(await store.bodies(["good", "bad", "large"])) == {"good", "bad"}
    await store.close()


async def test_servers_that_share_a_queue_do_not_stumble_over_the_same_row(
    postgres, make_job, make_outcome
) -> None:
    url = postgres()
    store = open_job_store(url)
    await store.add(make_job("bad", number=0))
    await store.add(make_job("good", number=1))
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(text("UPDATE comfyk_jobs SET body = 'nonsense' WHERE id = 'bad'"))
    engine.dispose()
    with pytest.raises(UnreadableJobError) as error:
        await store.take()
    assert set(await store.bodies(["good", "bad"])) == {"good"}
    taken = await store.take()
    assert taken is not None and taken.id == "good"
    await store.set_aside(error.value.job, make_outcome(JobStatus.FAILED))
    assert [job_id for job_id, _ in await store.history()] == ["bad"]
    assert [one.severity for one in diagnose(url)] == ["warning"]
    await store.close()
