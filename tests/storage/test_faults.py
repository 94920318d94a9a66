"""Real faults: killed processes, full disks, locked, damaged and foreign files."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from comfyk.jobs.store import JobQuery, StoreError
from comfyk_storage.job_store import SqlJobStore
from comfyk_storage.opening import open_job_store

ADDER = """
import asyncio, itertools, sys
from comfyk_storage.opening import open_job_store
from comfyk.jobs.model import Job, JobStatus, Outcome

async def worker(store, name):
    for i in itertools.count():
        job = Job(f"{name}-{i}", i, {"1": {"class_type": "X", "inputs": {"text": "x" * 2000}}}, {}, ["1"])
        await store.add(job)
        print("added", job.id, flush=True)
        if i % 3 == 0:
            await store.start(job, 1)
            await store.finish(job, Outcome(JobStatus.COMPLETED, 1, 2))
            print("ended", job.id, flush=True)

async def main():
    store = open_job_store(sys.argv[1])
    await asyncio.gather(*(worker(store, name) for name in "abcd"))

asyncio.run(main())
"""

HOLDER = """
import asyncio, sys
from comfyk_storage.opening import open_job_store
store = open_job_store(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
asyncio.run(store.close())
"""

SIZE_LIMITED = """
import asyncio, resource, sys
from comfyk_storage.opening import open_job_store
from comfyk.jobs.model import Job
from comfyk.jobs.store import StoreError

def job(i):
    return Job(str(i), i, {"1": {"text": "x" * 5000}}, {}, [])

async def main():
    store = open_job_store(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
    added = 0
    try:
        while added < 1000:
            await store.add(job(added))
            added += 1
    except StoreError as error:
        print(error)
    kept = len(await store.unfinished())
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await store.add(job(added))
    print(added, kept, len(await store.unfinished()))
    await store.close()

asyncio.run(main())
"""


def start(script: str, url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "comfyk.db"


def open_file(file: Path, **settings) -> SqlJobStore:
    return open_job_store(f"sqlite:///{file}", **settings)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.parametrize("acknowledged", [1, 7, 200, 1000])
async def test_what_was_acknowledged_survives_kill_9(database_url, acknowledged):
    child = start(ADDER, database_url)
    assert child.stdout is not None
    lines = [child.stdout.readline() for _ in range(acknowledged)]
    child.send_signal(signal.SIGKILL)
    lines += child.stdout.read().splitlines(keepends=True)
    child.wait()
    said = [line.split() for line in lines if line.endswith("\n")]
    store = await reopen(database_url)
    unfinished = {job.id for job in await store.unfinished()}
    ended = {job_id for job_id, _ in await store.history()}
    await store.close()
    assert {job_id for what, job_id in said if what == "ended"} <= ended
    assert {job_id for what, job_id in said if what == "added"} <= unfinished | ended


async def reopen(url: str) -> SqlJobStore:
    """Open it after its owner was killed; a database server may need a moment to notice."""
    for _ in range(100):
        try:
            return open_job_store(url)
        except StoreError:
            if url.startswith("sqlite"):
                raise
            await asyncio.sleep(0.05)
    return open_job_store(url)


async def test_a_second_server_on_one_file_or_of_one_name_is_refused(database_url, make_job):
    remedy = "storage.database_url" if database_url.startswith("sqlite") else "storage.server_name"
    child = start(HOLDER, database_url)
    assert child.stdout is not None and child.stdout.readline() == "open\n"
    with pytest.raises(StoreError, match=r"in use by another comfyk") as refused:
        open_job_store(database_url)
    assert str(child.pid) in str(refused.value)
    assert remedy in str(refused.value)
    child.communicate("")
    store = await reopen(database_url)
    await store.add(make_job("a"))
    with pytest.raises(StoreError, match=str(os.getpid())):
        open_job_store(database_url)
    await store.close()


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes")
def test_a_failing_disk_fails_the_caller_and_nothing_else(file):
    child = subprocess.run(
        [sys.executable, "-c", SIZE_LIMITED, f"sqlite:///{file}"], capture_output=True, text=True, check=True
    )
    message, counts = child.stdout.splitlines()
    assert str(file) in message and "disk" in message
    added, kept, after = map(int, counts.split())
    assert 0 < added < 1000
    assert (kept, after) == (added, added + 1)


async def test_a_full_disk(file, make_job, make_outcome):
    store = open_file(file)
    await store.add(make_job("a"))
    connection = store._writer._connection
    assert connection is not None
    connection.exec_driver_sql("PRAGMA max_page_count=30")
    connection.rollback()
    with pytest.raises(StoreError, match=r"disk is full.*Free some space"):
        for i in range(100):
            await store.add(make_job(f"filler {i}", prompt={"1": "x" * 5000}))
    before, _ = await store.list(JobQuery())
    with pytest.raises(StoreError, match=r"disk is full"):
        await store.add(make_job("b", prompt={"1": "x" * 50_000}))
    assert (await store.list(JobQuery()))[0] == before
    connection.exec_driver_sql("PRAGMA max_page_count=1000000")
    connection.rollback()
    await store.add(make_job("b", prompt={"1": "x" * 50_000}))
    await store.finish(make_job("a"), make_outcome())
    await store.close()


async def test_a_locked_database_fails_the_caller_and_nothing_else(file, make_job):
    store = open_file(file, busy_timeout_s=0.02)
    with sqlite3.connect(file, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"locked it.*busy_timeout_s"):
            await store.add(make_job("a"))
        assert await store.history() == []
        other.execute("ROLLBACK")
    other.close()
    await store.add(make_job("a"))
    await store.close()


def test_a_database_that_is_locked_at_the_start(file, make_job):
    with sqlite3.connect(file, isolation_level=None) as other:
        other.execute("CREATE TABLE t (x)")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match=r"locked it"):
            open_file(file, busy_timeout_s=0.02)
    other.close()


def test_a_file_that_is_no_database_is_left_alone(file):
    content = b"These are my holiday notes.\n" * 100
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"comfyk\.db: it is not a SQLite database.*left as it is"):
        open_file(file)
    assert file.read_bytes() == content
    assert sorted(p.name for p in file.parent.iterdir()) == ["comfyk.db", "comfyk.db.lock"]


async def test_a_damaged_database_is_reported_and_left_alone(file, make_job):
    store = open_file(file)
    for i in range(50):
        await store.add(make_job(str(i), prompt={"1": "x" * 3000}))
    await store.close()
    content = bytearray(file.read_bytes())
    content[4096 * 2 :] = os.urandom(len(content) - 4096 * 2)
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"damaged.*left as it is"):
        store = open_file(file)
        try:
            await store.unfinished()
        finally:
            await store.close()
    assert file.stat().st_size == len(content)


def test_a_folder_in_the_place_of_the_file(file):
    file.mkdir()
    with pytest.raises(StoreError, match=r"comfyk\.db cannot be opened for writing \(Is a directory\)"):
        open_file(file)


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "user").write_text("")
    with pytest.raises(StoreError, match=r"cannot be opened for writing"):
        open_file(tmp_path / "user" / "comfyk.db")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that not even root can write")
def test_a_folder_that_cannot_be_written():
    with pytest.raises(StoreError, match=r"/proc/comfyk.db cannot be opened.*storage.database_url"):
        open_file(Path("/proc/comfyk.db"))


async def test_a_database_that_cannot_be_written(file, make_job):
    store = open_file(file)
    await store.add(make_job("a"))
    await store.close()
    store = open_job_store(f"sqlite:///file:{file}?mode=ro&uri=true")
    assert len(await store.unfinished()) == 1
    with pytest.raises(StoreError, match=r"cannot be written.*writable for this user"):
        await store.add(make_job("b"))
    await store.close()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
async def test_files_are_for_their_owner_alone(tmp_path, make_job):
    file = tmp_path / "new folder" / "comfyk #1 100%?.db"
    from comfyk_storage.engine import sqlite_url

    store = open_job_store(sqlite_url(file))
    await store.add(make_job("a"))
    modes = {path.name: path.stat().st_mode & 0o777 for path in file.parent.iterdir()}
    await store.close()
    assert {"-wal", "-shm", ".lock", ""} == {name.removeprefix(file.name) for name in modes}
    assert set(modes.values()) == {0o600}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://root@localhost/x", "mysql is not supported"),
        ("just a file.db", "not a database URL"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
    ],
)
def test_urls_that_cannot_be_opened(url, message):
    with pytest.raises(StoreError, match=message):
        open_job_store(url)


def test_a_password_is_not_shown():
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError) as error:
        open_job_store("postgresql://ann:hunter2@127.0.0.1:1/x")
    assert "127.0.0.1" in str(error.value) and "hunter2" not in str(error.value)


async def test_a_lost_connection_fails_the_caller_and_is_opened_anew(postgres, make_job):
    import psycopg

    url = postgres()
    store = open_job_store(url)
    await store.add(make_job("a"))
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    with pytest.raises(StoreError, match=r"connection was lost"):
        await store.add(make_job("b"))
    await store.add(make_job("b"))
    assert [job.id for job in await store.unfinished()] == ["a", "b"]
    with pytest.raises(StoreError, match=r"in use by another"):
        open_job_store(url)
    await store.close()


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be deleted there")
@pytest.mark.parametrize("replaced", [False, True])
async def test_a_database_that_is_deleted_under_the_server_takes_no_more_jobs(
    tmp_path, make_job, replaced
) -> None:
    file = tmp_path / "comfyk.db"
    store = open_job_store(f"sqlite:///{file}")
    try:
        await store.add(make_job("kept"))
        moved = file.rename(tmp_path / "moved.db")
        if replaced:
            file.write_bytes(moved.read_bytes())
        with pytest.raises(StoreError, match="deleted or replaced"):
            await store.add(make_job("refused"))
        moved.rename(file)
        await store.add(make_job("again"))
        assert {job.id for job in await store.unfinished()} == {"kept", "again"}
    finally:
        await store.close()


@pytest.mark.skipif(sys.platform == "win32", reason="flock is POSIX's")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EIO, errno.ENOSYS])
def test_a_file_system_without_locks_is_told_as_that(file, monkeypatch, number):
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    with pytest.raises(StoreError) as refused:
        open_file(file)
    assert "cannot be locked" in str(refused.value) and os.strerror(number) in str(refused.value)
    assert "in use" not in str(refused.value) and "local disk" in str(refused.value)
    if before:
        assert len(os.listdir("/proc/self/fd")) == len(before)
