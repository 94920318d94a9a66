"""Schemas: new, from an older version, from a newer one."""

from __future__ import annotations

import asyncio
import re
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import comfyk_storage.migrations as migrations
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from comfyk.jobs import SharedJobStore, StoreError
from comfyk_storage.engine import open_engine, parse_url
from comfyk_storage.opening import open_job_store
from comfyk_storage.schema import HEAD, metadata, shared_metadata
from sqlalchemy import Connection, MetaData, column, insert, table

SCRIPTS = Path(migrations.__file__).parent
VERSION_TABLE = migrations.JOBS.version_table
NEXT = """
from alembic import op
import sqlalchemy as sa

revision = "next"
down_revision = "{head}"

def upgrade():
    op.add_column("comfyk_jobs", sa.Column("note", sa.Text))
    op.execute("INSERT INTO comfyk_jobs (id, status, number, \\"user\\", attempts, created_at, duration, "
               "outputs_count, previewable_outputs_count) "
               "VALUES ('by upgrade', 'pending', 1, 'u', 0, 0, 0, 0, 0)")
    {then}
"""


def connect(url: str) -> Connection:
    return open_engine(parse_url(url), synchronous="normal", busy_timeout_s=1).connect()


def with_next(folder: Path, then: str = "") -> migrations.Schema:
    """The schema with one more revision, and what else that is to do."""
    scripts = folder / "migrations"
    shutil.copytree(SCRIPTS, scripts)
    (scripts / "versions" / "next.py").write_text(NEXT.format(head=HEAD, then=then))
    return replace(migrations.JOBS, head="next", scripts=scripts)


def close(connection: Connection) -> None:
    connection.close()
    connection.engine.dispose()


def test_the_newest_revision_is_the_one_that_the_schema_names():
    assert ScriptDirectory(str(SCRIPTS)).get_current_head() == HEAD


def test_migrated_tables_are_those_of_the_schema(database_url):
    directory = ScriptDirectory(str(SCRIPTS))
    connection = connect(database_url)
    with EnvironmentContext(Config(), directory) as environment:
        environment.configure(
            connection=connection,
            version_table=VERSION_TABLE,
            fn=lambda revision, _: directory._upgrade_revs("head", revision),
        )
        environment.run_migrations()
        connection.commit()
    shared = connection.dialect.name == "postgresql"
    context = MigrationContext.configure(
        connection,
        opts={
            "version_table": VERSION_TABLE,
            "compare_type": True,
            "compare_server_default": True,
            "include_name": lambda name, kind, _: kind != "table" or name != VERSION_TABLE,
            "include_object": lambda _o, name, kind, _r, _c: kind != "table" or name != VERSION_TABLE,
        },
    )
    expected = MetaData()
    for one in (*metadata.tables.values(), *(shared_metadata.tables.values() if shared else ())):
        one.to_metadata(expected)
    assert compare_metadata(context, expected) == []
    close(connection)


def test_migrated_sqlite_has_the_same_sql(tmp_path):
    statements = []
    for name in ("created", "migrated"):
        connection = connect(f"sqlite:///{tmp_path}/{name}.db")
        if name == "migrated":
            directory = ScriptDirectory(str(SCRIPTS))
            with EnvironmentContext(Config(), directory) as environment:
                environment.configure(
                    connection=connection,
                    version_table=VERSION_TABLE,
                    fn=lambda revision, _, directory=directory: directory._upgrade_revs("head", revision),
                )
                environment.run_migrations()
        else:
            migrations.prepare(connection, "x", None)
        connection.commit()
        rows = connection.exec_driver_sql(
            f"SELECT name, sql FROM sqlite_master WHERE tbl_name <> '{VERSION_TABLE}' ORDER BY name"
        )
        # SQLite adds a column to the text as it was written: only the white space differs.
        statements.append(
            [(name, re.sub(r"\s*([,()])\s*", r"\1", " ".join((sql or "").split()))) for name, sql in rows]
        )
        close(connection)
    assert statements[0] == statements[1]
    assert len(statements[0]) > 4


async def test_an_older_database_is_backed_up_and_upgraded(tmp_path, make_job):
    file = tmp_path / "comfyk.db"
    store = open_job_store(f"sqlite:///{file}")
    await store.add(make_job("a"))
    await store.close()
    earlier = tmp_path / f"comfyk.db.{HEAD}.backup"
    earlier.write_text("an earlier backup")
    connection = connect(f"sqlite:///{file}")
    migrations.prepare(connection, "x", file, with_next(tmp_path))
    close(connection)

    def jobs(path: Path) -> list[str]:
        with sqlite3.connect(path) as reading:
            return [row[0] for row in reading.execute("SELECT id FROM comfyk_jobs ORDER BY seq")]

    assert jobs(file) == ["a", "by upgrade"]
    backup = tmp_path / f"comfyk.db.{HEAD}.backup.2"
    assert jobs(backup) == ["a"]
    assert backup.stat().st_mode & 0o777 == 0o600
    assert earlier.read_text() == "an earlier backup"


def test_postgresql_is_upgraded(postgres, tmp_path):
    url = postgres()
    for schema in (migrations.JOBS, with_next(tmp_path)):
        connection = connect(url)
        migrations.prepare(connection, "x", None, schema)
        close(connection)
    connection = connect(url)
    assert connection.exec_driver_sql("SELECT id, note FROM comfyk_jobs").all() == [("by upgrade", None)]
    close(connection)


async def test_a_database_from_before_there_were_leases(database_url, make_job, make_outcome):
    connection = connect(database_url)
    migrations.prepare(connection, "x", None, replace(migrations.JOBS, head="0001", create=None))
    row = {
        "status": "pending", "number": 1.0, "user": "u", "attempts": 0, "created_at": 5, "duration": 0,
        "outputs_count": 0, "previewable_outputs_count": 0, "body": b'{"prompt":{},"extra_data":{},"targets":[]}',
    }  # fmt: skip
    old = table("comfyk_jobs", *(column(name) for name in (*row, "id", "started_at", "history_seq", "entry")))
    rows = [
        {"id": "waits"},
        {"id": "ran", "status": "in_progress", "attempts": 1, "started_at": 7},
        {"id": "ended", "status": "completed", "history_seq": 41, "body": None, "entry": b'{"old":1}'},
    ]
    for changes in rows:
        connection.execute(insert(old), row | changes)
    connection.commit()
    close(connection)
    store = open_job_store(database_url)
    assert [(job.id, job.attempts) for job in await store.unfinished()] == [("ran", 1), ("waits", 0)]
    if isinstance(store, SharedJobStore):
        taken = await store.take()
        assert taken is not None and taken.id == "ran"
    await store.finish(make_job("ran"), make_outcome())
    assert [job_id for job_id, _ in await store.history()] == ["ended", "ran"]
    await store.close()


async def test_a_schema_is_not_changed_under_servers_that_run(postgres, tmp_path, monkeypatch):
    url = postgres()
    running = open_job_store(url, server_name="old")
    newer = with_next(tmp_path)
    monkeypatch.setattr("comfyk_storage.shared_store.JOBS", newer)
    with pytest.raises(
        StoreError, match=r"must be upgraded, and is in use.*Stop all servers.*Nothing was changed"
    ):
        open_job_store(url, server_name="new")
    await running.close()
    await open_job_store(url, server_name="new").close()


def test_a_server_that_shares_with_none_is_respected(postgres):
    """Version 0.1 holds a lock of the whole database."""
    psycopg = pytest.importorskip("psycopg")
    url = postgres()
    with psycopg.connect(url, autocommit=True) as old:
        old.execute("SELECT pg_advisory_lock(%s)", (0x636F6D66796B,))
        with pytest.raises(StoreError, match="in use by another comfyk"):
            open_job_store(url)


async def test_servers_that_start_at_once_make_the_tables_once(postgres):
    url = postgres()
    stores = await asyncio.gather(
        *(asyncio.to_thread(open_job_store, url, server_name=str(number)) for number in range(4))
    )
    for store in stores:
        await store.close()


def test_an_upgrade_that_fails_changes_nothing(database_url, tmp_path):
    connection = connect(database_url)
    migrations.prepare(connection, "x", None)
    schema = with_next(tmp_path, then="raise RuntimeError('half way')")
    with pytest.raises(RuntimeError, match="half way"):
        migrations.prepare(connection, "x", None, schema)
    close(connection)
    connection = connect(database_url)
    migrations.prepare(connection, "x", None)
    assert connection.exec_driver_sql("SELECT * FROM comfyk_jobs").all() == []
    close(connection)


async def test_a_database_from_a_newer_version_is_refused(database_url, make_job):
    store = open_job_store(database_url)
    await store.add(make_job("a"))
    await store.close()
    connection = connect(database_url)
    connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    connection.commit()
    close(connection)
    with pytest.raises(
        StoreError, match=r"newer version of comfyk-storage \(revision 9999.*Nothing was changed"
    ):
        open_job_store(database_url)


def test_a_table_of_someone_else_is_left_alone(database_url):
    connection = connect(database_url)
    connection.exec_driver_sql("CREATE TABLE comfyk_jobs (mine INTEGER)")
    connection.commit()
    close(connection)
    with pytest.raises(StoreError, match="did not make"):
        open_job_store(database_url)


@pytest.mark.parametrize("kind", ["new", "existing"])
async def test_opening_imports_neither_alembic_nor_the_orm(tmp_path, kind):
    url = f"sqlite:///{tmp_path}/comfyk.db"
    if kind == "existing":
        await open_job_store(url).close()
    code = (
        "import asyncio, sys, comfyk_storage.plugin\n"
        "assert 'sqlalchemy' not in sys.modules\n"
        "from comfyk_storage.opening import open_job_store\n"
        "asyncio.run(open_job_store(sys.argv[1]).close())\n"
        "heavy = {'alembic', 'sqlalchemy.orm', 'sqlalchemy.dialects.postgresql', 'psycopg'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, url], check=True)
