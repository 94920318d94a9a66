"""Files that are taken away, replaced or cut short under an open store: nothing is acknowledged that would be lost, and
what was acknowledged is there at the next start.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from pathlib import Path

import pytest
from comfyk.jobs.store import StoreError
from comfyk_storage.files import DatabaseFiles, FilesGoneError
from comfyk_storage.opening import open_job_store

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be taken away there")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "comfyk.db"


@pytest.fixture
def open_store(file):
    return lambda **options: open_job_store(f"sqlite:///{file}", **options)


async def fill(store, make_job, make_outcome) -> None:
    """Three jobs that ended and two that wait, one of them started."""
    for name in ("done1", "done2", "done3"):
        await store.add(make_job(name))
        await store.finish(make_job(name), make_outcome())
    await store.add(make_job("waits", number=7))
    await store.add(make_job("runs", attempts=1), started_at=5)


async def known(store) -> tuple[list[str], dict[str, int]]:
    history = [job_id for job_id, _ in await store.history()]
    return history, {job.id: job.attempts for job in await store.unfinished()}


WHOLE = (["done1", "done2", "done3"], {"runs": 1, "waits": 0})


@pytest.mark.parametrize("name", ["", "-wal", "-shm"])
@pytest.mark.parametrize("replaced", [False, True])
async def test_a_file_that_is_deleted_costs_nothing(
    file, open_store, make_job, make_outcome, name: str, replaced: bool
) -> None:
    store = open_store()
    await fill(store, make_job, make_outcome)
    gone = Path(f"{file}{name}")
    content = gone.read_bytes()
    gone.unlink()
    if replaced:
        gone.write_bytes(content)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"was deleted or replaced .* the next start puts in its place"):
            await store.add(make_job("refused"))
    await store.close()
    store = open_store()
    assert await known(store) == WHOLE
    await store.add(make_job("again"))
    await store.close()
    assert not Path(f"{file}.rescued").exists()
    store = open_store()
    assert "again" in (await known(store))[1]
    await store.close()


@pytest.mark.parametrize("left", [0, 0.5, 0.99])
async def test_a_log_that_is_cut_short_costs_nothing_that_is_in_memory(
    file, open_store, make_job, make_outcome, left: float
) -> None:
    store = open_store()
    await fill(store, make_job, make_outcome)
    wal = f"{file}-wal"
    os.truncate(wal, int(os.path.getsize(wal) * left))
    with pytest.raises(StoreError, match="was cut short"):
        await store.add(make_job("refused"))
    await store.close()
    store = open_store()
    assert await known(store) == WHOLE
    assert not Path(f"{file}.unsaved").exists()
    await store.close()
    store = open_store()
    assert await known(store) == WHOLE
    await store.close()


async def test_a_database_that_is_cut_short_is_written_anew_once_it_is_moved_away(
    file, open_store, make_job, make_outcome
) -> None:
    store = open_store()
    await fill(store, make_job, make_outcome)
    with sqlite3.connect(file) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other.close()
    await store.add(make_job("later"))
    os.truncate(file, os.path.getsize(file) // 2)
    with pytest.raises(StoreError, match="was cut short"):
        await store.add(make_job("refused"))
    await store.close()
    for name in ("", "-wal", "-shm"):
        Path(f"{file}{name}").unlink(missing_ok=True)
    store = open_store()
    history, unfinished = await known(store)
    assert history == WHOLE[0] and unfinished == {**WHOLE[1], "later": 0}
    await store.close()


async def test_files_that_come_back_are_used_again(file, open_store, make_job, make_outcome) -> None:
    store = open_store()
    await fill(store, make_job, make_outcome)
    moved = file.rename(file.with_name("moved.db"))
    with pytest.raises(StoreError, match="was deleted or replaced"):
        await store.add(make_job("refused"))
    moved.rename(file)
    await store.add(make_job("again"))
    assert not Path(f"{file}.rescued").exists(), "the next start would put what is old in its place"
    await store.close()
    store = open_store()
    assert (await known(store))[1] == {**WHOLE[1], "again": 0}
    await store.close()


async def test_what_other_programs_do_with_the_database_is_no_fault(
    file, open_store, make_job, make_outcome
) -> None:
    store = open_store()
    for round in range(5):
        for index in range(20):
            name = f"{round}.{index}"
            await store.add(make_job(name, extra_data={"padding": "x" * 50_000}))
            await store.finish(make_job(name), make_outcome())
        other = sqlite3.connect(file)
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        await store.clear_history()
        other.execute("VACUUM")
        other.execute("PRAGMA wal_checkpoint(RESTART)")
        other.close()
    await store.add(make_job("kept"))
    assert list((await known(store))[1]) == ["kept"]
    await store.close()


def test_a_hole_is_found_though_the_log_was_written_to_again(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE t (a)")
    files = DatabaseFiles(file)
    for _ in range(50):
        connection.execute("INSERT INTO t VALUES (?)", ("x" * 3000,))
        files.check()
    os.truncate(f"{file}-wal", os.path.getsize(f"{file}-wal") // 2)
    connection.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(FilesGoneError, match="cut short"):
        files.check()
    connection.close()
    files.close()


async def test_what_could_not_be_stored_is_read_at_the_next_start(
    file, open_store, make_job, make_outcome
) -> None:
    """The server may be killed, or its machine be switched off, before the database is well again."""
    store = open_store(busy_timeout_s=0.1)
    await fill(store, make_job, make_outcome)
    await store.add(make_job("back", number=3, attempts=1), started_at=5)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        await store.finish(make_job("runs", attempts=1), make_outcome())
    with pytest.raises(StoreError, match="locked"):
        await store.requeue(make_job("back", number=3, attempts=0))
    unsaved = Path(f"{file}.unsaved")
    assert unsaved.stat().st_mode & 0o077 == 0
    lines = unsaved.read_text()
    await store.close()
    other.close()
    unsaved.write_text(f"{lines}no json\n[]\n{lines}")
    store = open_store()
    history, unfinished = await known(store)
    assert history == [*WHOLE[0], "runs"] and unfinished == {"waits": 0, "back": 0}
    assert (await store.get("runs")).outcome.status == "completed"
    await store.close()


async def test_what_is_stored_after_all_is_no_more_in_the_file(
    file, open_store, make_job, make_outcome
) -> None:
    store = open_store(busy_timeout_s=0.1)
    await store.add(make_job("a"), started_at=5)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        await store.finish(make_job("a"), make_outcome())
    assert Path(f"{file}.unsaved").exists()
    other.close()
    await store.finish(make_job("a"), make_outcome())
    assert not Path(f"{file}.unsaved").exists()
    await store.close()


async def test_closing_a_store_that_does_not_answer_comes_to_an_end(
    file, open_store, make_job, monkeypatch
) -> None:
    monkeypatch.setattr("comfyk_storage.writer._CLOSE_S", 0.3)
    store = open_store(busy_timeout_s=60)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    adding = asyncio.ensure_future(store.add(make_job("a")))
    await asyncio.sleep(0.05)
    await asyncio.wait_for(store.close(), 5)
    other.close()
    await asyncio.gather(adding, return_exceptions=True)
