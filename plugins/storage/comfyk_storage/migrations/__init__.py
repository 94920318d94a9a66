"""Bringing the schema of a database up to date.

A database at the newest revision costs one query. Alembic, which takes half a second to import, is loaded
only for one that is behind; a new database gets its tables from the metadata.

A change of the schema is a file in `versions/` (numbered on from the last), the same change in `schema.py`,
and the new number in `schema.HEAD`; the tests compare the two.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from comfyk.jobs.store import StoreError
from sqlalchemy import Column, Connection, String, Table, insert, inspect, select

from comfyk_storage.schema import HEAD, jobs, metadata

VERSION_TABLE = "comfyk_storage_version"
"""Alembic's table, under a name that other plugins' tables in the same database do not clash with."""

_version = Table(VERSION_TABLE, metadata, Column("version_num", String(32), primary_key=True, nullable=False))


def prepare(
    connection: Connection,
    place: str,
    file: Path | None,
    *,
    head: str = HEAD,
    scripts: Path = Path(__file__).parent,
) -> None:
    """Create or upgrade the tables behind `connection`, all or nothing.

    `place` names the database in messages; `file` is copied before an upgrade. Raises StoreError for a
    database from a newer version, or one whose tables are not this plugin's.
    """
    found = set(inspect(connection).get_table_names()) & {VERSION_TABLE, jobs.name}
    connection.rollback()
    if VERSION_TABLE in found:
        revision = connection.scalar(select(_version.c.version_num))
        connection.rollback()
        if revision != head:
            _upgrade(connection, place, file, revision, head, scripts)
        return
    if found:
        raise StoreError(
            f"{place} has a table {jobs.name} that this program did not make. "
            "Set storage.database_url to another database."
        )
    _begin(connection)
    metadata.create_all(connection, checkfirst=False)
    connection.execute(insert(_version), {"version_num": HEAD})
    connection.commit()


def _upgrade(
    connection: Connection, place: str, file: Path | None, revision: str | None, head: str, scripts: Path
) -> None:
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    directory = ScriptDirectory(str(scripts))
    known = {script.revision for script in directory.walk_revisions()}
    if revision is not None and revision not in known:
        raise StoreError(
            f"{place} is from a newer version of comfyk-storage (revision {revision}; this one knows up to "
            f"{head}). Upgrade comfyk-storage, or set storage.database_url to another database. "
            "Nothing was changed."
        )
    if file is not None:
        _back_up(file, _unused(file.with_name(f"{file.name}.{revision}.backup")))
    with EnvironmentContext(Config(), directory) as environment:
        environment.configure(
            connection=connection,
            target_metadata=metadata,
            version_table=VERSION_TABLE,
            transactional_ddl=True,
            fn=lambda current, _context: directory._upgrade_revs(head, current),
        )
        _begin(connection)
        environment.run_migrations()
        connection.commit()


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
