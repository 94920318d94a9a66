"""Bringing the schema of a database up to date: of the jobs' own, and of each that a plugin asked for.

A database at the newest revision costs one query. Alembic, which takes half a second to import, is loaded
only for one that is behind; the jobs' tables of a new database are made from the metadata.

A change of the jobs' schema is a file in `versions/` (numbered on from the last), the same change in `schema.py`,
and the new number in `schema.HEAD`; the tests compare the two.
"""

from __future__ import annotations

import ast
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from comfyk.jobs import StoreError
from sqlalchemy import Column, Connection, MetaData, String, Table, insert, inspect, select

from comfyk_storage.presence import lock_migrations
from comfyk_storage.schema import HEAD, history_count, jobs, metadata, shared_metadata


@dataclass(frozen=True, slots=True)
class Schema:
    """What a database is to hold, and how it gets there."""

    head: str
    """The revision that the code is written for."""
    scripts: Path
    """The folder of alembic's revisions: those in `versions/`, or right there."""
    version_table: str
    """Alembic's table; its name says whose database it is."""
    program: str
    """What is to be upgraded when the database is newer."""
    tables: frozenset[str] = frozenset()
    """Tables that nobody else may have made."""
    create: Callable[[Connection], None] | None = None
    """Makes the tables of a new database as they are at `head`; without it the revisions do."""

    @property
    def versions(self) -> Path:
        """The folder in which the revisions are."""
        folder = self.scripts / "versions"
        return folder if folder.is_dir() else self.scripts


def _create_jobs(connection: Connection) -> None:
    metadata.create_all(connection, checkfirst=False)
    if connection.dialect.name == "postgresql":
        shared_metadata.create_all(connection, checkfirst=False)
        connection.execute(insert(history_count), {"last_seq": 0, "finished": 0})


JOBS = Schema(
    head=HEAD,
    scripts=Path(__file__).parent,
    version_table="comfyk_storage_version",
    program="comfyk-storage",
    tables=frozenset({jobs.name}),
    create=_create_jobs,
)
"""The tables of jobs. The version table's name is one that no other program's in the same database clashes with."""


def plugin_schema(name: str, scripts: Path) -> Schema:
    """What a plugin's own database is to hold. Raises StoreError when its revisions are not in one line."""
    schema = Schema("", scripts, "comfyk_version", f"the plugin that keeps its data in {name!r}")
    return Schema(_head(schema.versions), scripts, schema.version_table, schema.program)


def prepare(
    connection: Connection,
    place: str,
    file: Path | None,
    schema: Schema = JOBS,
    before_change: Callable[[Connection], None] = lambda _connection: None,
) -> None:
    """Create or upgrade the tables behind `connection`, all or nothing.

    `place` names the database in messages; `file` is copied before an upgrade. In PostgreSQL one server at a time does
    this, and the others wait. `before_change` may refuse a change that is necessary. Raises StoreError for a database
    from a newer version, or one whose tables are someone else's.
    """
    shared = connection.dialect.name == "postgresql"
    if shared:
        lock_migrations(connection)
    found = set(inspect(connection).get_table_names()) & {schema.version_table, *schema.tables}
    revision = current_revision(connection, schema) if schema.version_table in found else None
    if not shared:
        connection.rollback()  # nobody else is there; what changes begins a transaction of its own
    if schema.version_table not in found and found:
        raise StoreError(
            f"{place} has a table {min(found)} that this program did not make. "
            "Set storage.database_url to another database."
        )
    if revision != schema.head:
        if schema.version_table not in found and schema.create is not None:
            before_change(connection)
            _begin(connection)
            schema.create(connection)
            version = _version(schema)
            version.create(connection, checkfirst=False)
            connection.execute(insert(version), {"version_num": schema.head})
        else:
            _upgrade(connection, place, file, revision, schema, before_change)
    connection.commit()


def current_revision(connection: Connection, schema: Schema) -> str | None:
    """The revision that the database is at. Raises when it has no version table."""
    return connection.scalar(select(_version(schema).c.version_num))


def known_revisions(schema: Schema) -> set[str]:
    """The revisions that this program knows."""
    return set(_revisions(schema.versions))


def _version(schema: Schema) -> Table:
    column = Column("version_num", String(32), primary_key=True, nullable=False)
    return Table(schema.version_table, MetaData(), column)


def _upgrade(
    connection: Connection,
    place: str,
    file: Path | None,
    revision: str | None,
    schema: Schema,
    before_change: Callable[[Connection], None],
) -> None:
    if revision is not None and revision not in known_revisions(schema):
        raise StoreError(
            f"{place} is from a newer version of {schema.program} (revision {revision}; this one knows up to "
            f"{schema.head}). Upgrade {schema.program}, or set storage.database_url to another database. "
            "Nothing was changed."
        )
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    before_change(connection)
    if file is not None and revision is not None:
        _back_up(file, _unused(file.with_name(f"{file.name}.{revision}.backup")))
    directory = ScriptDirectory(str(schema.scripts), version_locations=[str(schema.versions)])
    with EnvironmentContext(Config(), directory) as environment:
        environment.configure(
            connection=connection,
            version_table=schema.version_table,
            transactional_ddl=True,
            fn=lambda current, _context: directory._upgrade_revs(schema.head, current),
        )
        _begin(connection)
        environment.run_migrations()


def _head(versions: Path) -> str:
    """The revision that no other comes after. Raises StoreError when there is none, or more than one."""
    revisions = _revisions(versions)
    heads = sorted(set(revisions).difference(*revisions.values()))
    if len(heads) != 1:
        found = ", ".join(heads) or "none"
        raise StoreError(
            f"{versions} must hold alembic revisions that end in one; those at the end: {found}."
        )
    return heads[0]


def _revisions(versions: Path) -> dict[str, set[str]]:
    """The revisions in a folder, each with those it comes after, read without running them."""
    found: dict[str, set[str]] = {}
    for file in sorted(versions.glob("*.py")):
        values: dict[str, object] = {}
        for node in ast.parse(file.read_bytes(), str(file)).body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            if isinstance(node, ast.AnnAssign):  # alembic's own template writes these
                targets = [node.target]
            for target in targets:
                if isinstance(target, ast.Name) and target.id in ("revision", "down_revision"):
                    assert isinstance(node, ast.Assign | ast.AnnAssign)
                    values[target.id] = ast.literal_eval(node.value) if node.value is not None else None
        if isinstance(revision := values.get("revision"), str):
            before = values.get("down_revision")
            several = before if isinstance(before, tuple | list) else [before]
            found[revision] = {one for one in several if isinstance(one, str)}
    return found


def _begin(connection: Connection) -> None:
    """Open a transaction that holds DDL too: Python's sqlite3 opens one only for changes of rows."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _unused(path: Path) -> Path:
    """The path, numbered when there is a file already: earlier backups are kept."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}.{number}")
    return free


def _back_up(file: Path, backup: Path) -> None:
    """Copy a database whole, its write-ahead log included. Raises StoreError when that cannot be done."""
    try:
        source = sqlite3.connect(file)
        copy = sqlite3.connect(backup)
        try:
            source.backup(copy)
            backup.chmod(0o600)
        finally:
            copy.close()
            source.close()
    except (sqlite3.Error, OSError) as error:
        backup.unlink(missing_ok=True)
        raise StoreError(
            f"The database {file} must be upgraded, and its backup {backup} cannot be written ({error}). "
            "Free some space, or make the folder writable. Nothing was changed."
        ) from error
