"""What `comfyk doctor` says of the database, and what a snapshot holds of it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfyk_storage.plugin as plugin
import pytest
from comfyk_storage.diagnosis import diagnose
from comfyk_storage.opening import open_job_store
from comfyk_storage.schema import HEAD

Usage = namedtuple("Usage", "total used free")


def findings(url: str) -> list[tuple[str, str]]:
    return [(finding.severity, finding.message) for finding in diagnose(url)]


async def change(url: str, sql: str) -> None:
    """Change a database that nobody has open."""
    store = open_job_store(url)
    connection = store._writer._connection
    assert connection is not None
    connection.exec_driver_sql(sql)
    connection.commit()
    await store.close()


async def test_nothing_is_wrong(database_url, make_job):
    assert findings(database_url) == []
    store = open_job_store(database_url)
    await store.add(make_job("a"))
    await store.close()
    assert findings(database_url) == []


def test_looking_creates_nothing(tmp_path):
    assert findings(f"sqlite:///{tmp_path}/new/comfyk.db") == []
    assert [*tmp_path.iterdir()] == []


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith("-shm")}


async def test_looking_changes_nothing(tmp_path, make_job):
    url = f"sqlite:///{tmp_path}/comfyk.db"
    store = open_job_store(url)
    await store.add(make_job("a"))
    running = files_in(tmp_path)
    [(severity, _)] = findings(url)
    assert severity == "info" and files_in(tmp_path) == running and running["comfyk.db-wal"]
    await store.close()
    closed = files_in(tmp_path)
    assert findings(url) == [] and files_in(tmp_path) == closed
    assert (
        sorted(closed) == sorted(path.name for path in tmp_path.iterdir()) == ["comfyk.db", "comfyk.db.lock"]
    )


KILLED = """
import asyncio, os, signal, sys
from comfyk.jobs.model import Job
from comfyk_storage.opening import open_job_store

async def main():
    store = open_job_store(sys.argv[1])
    await store.add(Job("a", 1, {}, {}, []))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
async def test_what_a_killed_server_left_is_looked_at_and_kept(tmp_path):
    url = f"sqlite:///{tmp_path}/comfyk.db"
    subprocess.run([sys.executable, "-c", KILLED, url], check=False)
    left = files_in(tmp_path)
    assert left["comfyk.db-wal"]
    assert findings(url) == [] and files_in(tmp_path) == left
    store = open_job_store(url)
    assert [job.id for job in await store.unfinished()] == ["a"]
    await store.close()


@pytest.mark.parametrize("url", ["sqlite:///file:jobs.db?uri=true", "sqlite:///jobs.db"])
async def test_a_relative_name_is_the_file_that_the_store_opens(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    store = open_job_store(url)
    [(severity, message)] = findings(url)
    assert severity == "info" and f"{tmp_path / 'jobs.db'} is in use" in message
    await store.close()
    await change(url, "UPDATE comfyk_storage_version SET version_num = '9999'")
    [(severity, message)] = findings(url)
    assert severity == "error" and "newer version" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["jobs.db", "jobs.db.lock"]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts the files that are open")
async def test_looking_leaves_no_file_open(tmp_path):
    url = f"sqlite:///{tmp_path}/comfyk.db"
    await open_job_store(url).close()

    def opened() -> list[str]:
        links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
        return [
            target
            for link in links
            if os.path.islink(link) and str(tmp_path) in (target := os.readlink(link))
        ]

    assert findings(url) == [] and opened() == []
    (tmp_path / "comfyk.db").write_bytes(b"holiday notes\n" * 100)
    assert findings(url) != [] and opened() == []


async def test_a_running_server_is_no_fault(tmp_path):
    url = f"sqlite:///{tmp_path}/comfyk.db"
    store = open_job_store(url)
    [(severity, message)] = findings(url)
    assert severity == "info" and "in use by another comfyk" in message
    await store.close()


@pytest.mark.parametrize(
    ("revision", "severity", "message"),
    [("9999", "error", "newer version of comfyk-storage"), ("0001", "info", f"upgraded to {HEAD}")],
)
async def test_another_revision(database_url, revision, severity, message):
    await change(database_url, f"UPDATE comfyk_storage_version SET version_num = '{revision}'")
    [(found, said)] = findings(database_url)
    assert found == severity and message in said


async def test_a_table_of_someone_else(database_url):
    await change(database_url, "DROP TABLE comfyk_storage_version")
    [(severity, message)] = findings(database_url)
    assert severity == "error" and "did not make" in message


def test_what_cannot_be_opened():
    [(severity, message)] = findings("mysql://root@localhost/x")
    assert severity == "error" and "not supported" in message


def test_a_database_that_does_not_answer():
    pytest.importorskip("psycopg")
    [(severity, message)] = findings("postgresql://ann:hunter2@127.0.0.1:1/x")
    assert severity == "error" and "127.0.0.1" in message and "hunter2" not in message


def test_a_locked_file(tmp_path):
    with sqlite3.connect(tmp_path / "comfyk.db", isolation_level=None) as other:
        other.execute("CREATE TABLE t (x)")
        other.execute("BEGIN EXCLUSIVE")
        [(severity, message)] = findings(f"sqlite:///{tmp_path}/comfyk.db")
    other.close()
    assert severity == "error" and "locked it" in message


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "comfyk.db").write_bytes(b"holiday notes\n" * 100)
    [(severity, message)] = findings(f"sqlite:///{tmp_path}/comfyk.db")
    assert severity == "error" and "not a SQLite database" in message


@pytest.mark.parametrize(("free", "severity"), [(10_000_000, "error"), (500_000_000, "warning")])
def test_a_disk_that_is_nearly_full(tmp_path, monkeypatch, free, severity):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 10**12 - free, free))
    [(found, message)] = findings(f"sqlite:///{tmp_path}/comfyk.db")
    assert found == severity and f"{free // 1_000_000} MB left" in message


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    [(severity, message)] = findings(f"sqlite:///{tmp_path}/comfyk.db")
    assert severity == "error" and "comfyk.db cannot be written" in message


def test_a_snapshot_says_the_kind_and_the_revision_and_no_secret():
    settings = plugin.StorageSettings(database_url="postgresql://ann:hunter2@db/x")  # type: ignore[call-arg]
    app: Any = SimpleNamespace(settings=SimpleNamespace(section=lambda *_: settings))
    assert plugin.comfyk_snapshot(app) == {"database": "postgresql", "revision": HEAD}
