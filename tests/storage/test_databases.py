"""Databases that plugins ask for: their own tables, upgraded, apart from each other, there after a restart."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from comfyk import hookimpl
from comfyk.app import App
from comfyk.database import Database, DatabaseError
from comfyk.plugins import Plugins
from comfyk.settings import load_settings
from comfyk_storage import plugin as storage
from comfyk_storage.database import PluginDatabase, open_database
from sqlalchemy import inspect, text

FIRST = """
import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

def upgrade():
    op.create_table("notes", sa.Column("id", sa.Integer, primary_key=True), sa.Column("text", sa.Text))
"""
SECOND = """
from typing import Union
import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: Union[str, None] = "0001"

def upgrade():
    op.add_column("notes", sa.Column("stars", sa.Integer))
    op.execute("UPDATE notes SET stars = 3")
"""


@pytest.fixture(params=["", "versions"])
def migrations(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The folder of revisions, which are in it or in its `versions`."""
    folder = tmp_path / "migrations"
    (folder / request.param).mkdir(parents=True)
    (folder / request.param / "0001_notes.py").write_text(FIRST)
    return folder


def add_revision(migrations: Path, name: str, source: str) -> None:
    (next(migrations.rglob("0001_notes.py")).parent / name).write_text(source)


def open_one(url: str, name: str, migrations: Path | None = None) -> PluginDatabase:
    return open_database(url, name, migrations, synchronous="normal", busy_timeout_s=1)


def run(database: Database, sql: str, **values: Any) -> list[tuple[Any, ...]]:
    with database.engine.begin() as connection:
        result = connection.execute(text(sql), values)
        return [tuple(row) for row in result] if result.returns_rows else []


def database_with_note(url: str, name: str, migrations: Path, note: str) -> None:
    database = open_one(url, name, migrations)
    run(database, "INSERT INTO notes (text) VALUES (:note)", note=note)
    database.close()


async def test_a_plugin_has_tables_of_its_own_that_survive(database_url, migrations, tmp_path):
    class Notes:
        @hookimpl
        async def comfyk_startup(self, app: App) -> None:
            self.database = await app.open_database("notes", migrations)

    async def start(note: str) -> list[tuple[Any, ...]]:
        plugins = Plugins()
        plugins.register(storage, "storage")
        plugins.register(notes := Notes(), "notes")
        overrides = {"folders.base": str(tmp_path), "storage.database_url": database_url}
        async with App(load_settings(plugins, overrides=overrides), plugins):
            run(notes.database, "INSERT INTO notes (text) VALUES (:note)", note=note)
            found = run(notes.database, "SELECT text FROM notes ORDER BY id")
            assert set(inspect(notes.database.engine).get_table_names()) == {"notes", "comfyk_version"}
        return found

    assert await start("a") == [("a",)]
    assert await start("b") == [("a",), ("b",)]
    if database_url.startswith("sqlite"):
        assert (tmp_path / "notes.db").stat().st_mode & 0o777 == 0o600


def test_the_file_is_beside_the_jobs_in_the_user_folder(tmp_path):
    settings = storage.StorageSettings()  # type: ignore[call-arg]
    app: Any = SimpleNamespace(
        settings=SimpleNamespace(section=lambda *_: settings), folders=SimpleNamespace(user=tmp_path / "user")
    )
    database = storage.comfyk_open_database(app, "assets", None)
    assert (tmp_path / "user" / "assets.db").is_file()
    assert run(database, "PRAGMA journal_mode") == [("wal",)]
    database.close()


def test_a_database_is_upgraded_and_its_content_kept(database_url, migrations, tmp_path):
    database_with_note(database_url, "notes", migrations, "old")
    add_revision(migrations, "0002_stars.py", SECOND)
    database = open_one(database_url, "notes", migrations)
    assert run(database, "SELECT text, stars FROM notes") == [("old", 3)]
    database.close()
    if database_url.startswith("sqlite"):
        assert (tmp_path / "notes.db.0001.backup").is_file()


def test_an_upgrade_that_fails_changes_nothing(database_url, migrations):
    database_with_note(database_url, "notes", migrations, "old")
    add_revision(migrations, "0002_stars.py", SECOND + "    raise RuntimeError('half way')\n")
    with pytest.raises(DatabaseError, match=r"'notes' cannot be opened.*half way"):
        open_one(database_url, "notes", migrations)
    database = open_one(database_url, "notes")
    assert run(database, "SELECT * FROM notes") == [(1, "old")]
    database.close()


def test_a_newer_database_is_refused_with_what_to_do(database_url, migrations):
    add_revision(migrations, "0002_stars.py", SECOND)
    open_one(database_url, "notes", migrations).close()
    next(migrations.rglob("0002_stars.py")).unlink()
    with pytest.raises(
        DatabaseError, match=r"newer version.*revision 0002.*up to 0001.*Upgrade.*Nothing was"
    ):
        open_one(database_url, "notes", migrations)


def test_two_names_do_not_see_each_other(database_url, migrations):
    database_with_note(database_url, "notes", migrations, "mine")
    database_with_note(database_url, "notes_too", migrations, "other's")
    for name, note in [("notes", "mine"), ("notes_too", "other's")]:
        database = open_one(database_url, name, migrations)
        assert run(database, "SELECT text FROM notes") == [(note,)]
        database.close()
    empty = open_one(database_url, "empty")
    assert inspect(empty.engine).get_table_names() == []
    empty.close()


@pytest.mark.parametrize(
    "name", ["", "../x", "a/b", "Notes", "a-b", "1a", 'a"; DROP SCHEMA public', "a" * 41, "a\n", "ä"]
)
def test_names_that_are_refused(database_url, name, tmp_path):
    before = {*tmp_path.iterdir()}
    with pytest.raises(DatabaseError, match="cannot be a database's name"):
        open_one(database_url, name)
    assert {*tmp_path.iterdir()} == before


def test_the_jobs_file_is_nobody_elses(tmp_path):
    with pytest.raises(DatabaseError, match="the file of the jobs"):
        open_one(f"sqlite:///{tmp_path}/comfyk.db", "comfyk")


def test_a_file_has_one_owner_and_is_free_when_it_is_closed(tmp_path):
    url = f"sqlite:///{tmp_path}/comfyk.db"
    database = open_one(url, "notes")
    with pytest.raises(DatabaseError, match="in use by another comfyk"):
        open_one(url, "notes")
    database.close()
    open_one(url, "notes").close()


def test_what_is_no_database_is_left_alone(tmp_path):
    (tmp_path / "notes.db").write_bytes(b"holiday notes\n" * 100)
    with pytest.raises(DatabaseError, match=r"not a SQLite database.*left as it is"):
        open_one(f"sqlite:///{tmp_path}/comfyk.db", "notes")
    assert (tmp_path / "notes.db").read_bytes() == b"holiday notes\n" * 100


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("revision = '0002'\ndown_revision = None\n", "at the end: 0001, 0002"),
        ("revision = \n", "invalid syntax"),
    ],
)
def test_revisions_that_make_no_line_are_refused(database_url, migrations, source, message):
    add_revision(migrations, "0002.py", source)
    with pytest.raises(DatabaseError, match=message):
        open_one(database_url, "notes", migrations)


def test_a_folder_without_revisions_is_refused(database_url, tmp_path):
    with pytest.raises(DatabaseError, match="at the end: none"):
        open_one(database_url, "notes", tmp_path / "missing")


async def test_servers_that_start_at_once_migrate_one_after_the_other(postgres, migrations):
    url = postgres()
    opened = await asyncio.gather(*(asyncio.to_thread(open_one, url, "notes", migrations) for _ in range(4)))
    for number, database in enumerate(opened):
        run(database, "INSERT INTO notes (text) VALUES (:note)", note=str(number))
    assert len(run(opened[0], "SELECT * FROM notes")) == 4
    for database in opened:
        database.close()


def test_alembic_is_imported_only_to_change_something(tmp_path, migrations):
    url = f"sqlite:///{tmp_path}/comfyk.db"
    open_one(url, "notes", migrations).close()
    code = (
        "import sys; from pathlib import Path; from comfyk_storage.database import open_database\n"
        "open_database(sys.argv[1], 'notes', Path(sys.argv[2]), synchronous='normal', busy_timeout_s=1).close()\n"
        "assert not {'alembic', 'sqlalchemy.orm'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, url, str(migrations)], check=True)
