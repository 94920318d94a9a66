"""How the writer's statements reach the database."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from sqlite3 import IntegrityError as SqliteIntegrityError
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.sql import Executable

_LARGE = 1_000_000
"""Bytes of one value."""

Rows = Sequence[dict[str, Any]]


class Driver:
    """Through SQLAlchemy's connection."""

    def execute(self, connection: Connection, statement: Executable, rows: Rows) -> int:
        """Run the statement for each of the rows; returns how many were changed."""
        return connection.execute(statement, rows[0] if len(rows) == 1 else rows).rowcount

    def commit(self, connection: Connection) -> None:
        connection.commit()

    def roll_back(self, connection: Connection) -> None:
        connection.rollback()


class SqliteDriver(Driver):
    """Through the connection of Python's sqlite3: SQLAlchemy writes each statement's SQL once.

    It halves what a small change costs. What else runs on the connection may go through SQLAlchemy: there is one
    transaction.
    """

    def __init__(self) -> None:
        self._written: dict[tuple[Any, ...], tuple[str, list[str], dict[str, Any]]] = {}
        """By statement and names of the values: the SQL, the values' names in order, and those that are constant."""

    def execute(self, connection: Connection, statement: Executable, rows: Rows) -> int:
        key = (statement, *rows[0])
        if key not in self._written:
            clause: Any = statement
            compiled = clause.compile(dialect=connection.dialect, column_keys=list(rows[0]))
            self._written[key] = (compiled.string, compiled.positiontup, compiled.params)
        sql, names, constant = self._written[key]
        values = [[row[name] if name in row else constant[name] for name in names] for row in rows]
        sqlite: Any = connection.connection.dbapi_connection
        cursor = sqlite.execute(sql, values[0]) if len(values) == 1 else sqlite.executemany(sql, values)
        changed = cursor.rowcount
        if any(isinstance(value, bytes) and len(value) > _LARGE for value in values[-1]):
            self._forget(sqlite, sql, len(names))
        return changed

    def _forget(self, sqlite: Any, sql: str, count: int) -> None:
        """Have a statement let go of the last values that it was run with, of which SQLite keeps copies."""
        with contextlib.suppress(SqliteIntegrityError):  # of a column that must not be null
            sqlite.execute(sql, [None] * count)

    def commit(self, connection: Connection) -> None:
        connection.commit()
        connection.connection.commit()

    def roll_back(self, connection: Connection) -> None:
        connection.rollback()
        connection.connection.rollback()
