"""What a plugin gets when it asks for a database (`app.open_database`); a plugin such as storage opens it."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

__all__ = [
    "Database",
    "DatabaseError",
]


class DatabaseError(Exception):
    """The database cannot be had; the message says which, why, and what to do next."""


@runtime_checkable
class Database(Protocol):
    """One plugin's database. The kernel knows nothing of SQL: `engine` is for the plugin that asked."""

    engine: Any
    """SQLAlchemy's `Engine`. With PostgreSQL, tables without a schema are those of this database's own schema."""

    def close(self) -> None:
        """Close all connections. The app does it after the plugins' shutdown."""
        ...
