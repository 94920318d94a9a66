"""Who works on a PostgreSQL: advisory locks, which the database lets go of when a server's connection is gone.

Each server holds two for as long as it runs, on the connection that it writes with. One is its *name's*: whoever gets
it knows that the server which had the name before is gone, and may put its jobs back. One is shared by all servers:
whoever changes the schema needs it alone, so that no server works on a schema that it does not know.
(Version 0.1 knew no leases; a server of that version holds the second one alone.)
"""

from __future__ import annotations

import hashlib
import time

from comfyk.jobs import StoreError
from sqlalchemy import Connection, text

_PRESENCE = 0x636F6D66796B
""""comfyk" in ASCII."""
_MIGRATION_WAIT_S = 60
_RELEASE_WAIT_S = 3.0
"""How long PostgreSQL may need to see that a process was killed."""

_HOLDERS = text(
    "SELECT a.pid, a.application_name, a.client_addr "
    "FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid "
    "WHERE l.locktype = 'advisory' AND l.granted AND l.database = a.datid AND l.objsubid = 1 "
    "AND ((l.classid::bigint << 32) | l.objid::bigint) = :key AND a.pid <> pg_backend_pid()"
)


def lock_migrations(connection: Connection) -> None:
    """Wait until no other server changes a schema; until the end of the transaction none will."""
    connection.execute(text(f"SET LOCAL lock_timeout = '{_MIGRATION_WAIT_S}s'"))
    key = _key(f"comfyk migrations of {connection.scalar(text('SELECT current_schema()'))}")
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})


def need_to_be_alone(connection: Connection, place: str) -> None:
    """Make sure that no server is there until the end of the transaction. Raises StoreError when one is."""
    if not connection.scalar(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _PRESENCE}):
        raise StoreError(
            f"{place} must be upgraded, and is in use by another comfyk ({_holders(connection, _PRESENCE)}). "
            "Stop all servers that use it, then start this one first. Nothing was changed."
        )


class Presence:
    """A server's name, and that it is there: held by one connection at a time."""

    def __init__(self, name: str, place: str) -> None:
        self.name = name
        self._place = place
        self._key = _key(f"comfyk server {name}")
        self._held_by: int | None = None

    def take_name(self, connection: Connection) -> None:
        """Take the name for as long as `connection` is open. Raises StoreError when another server has it."""
        backend: int = connection.scalar(text("SELECT pg_backend_pid()")) or 0
        deadline = time.monotonic() + _RELEASE_WAIT_S
        while not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": self._key}):
            holders = {row.pid for row in connection.execute(_HOLDERS, {"key": self._key})}
            if self._held_by in holders:
                # Our own lost connection, which the database has not noticed yet.
                connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": self._held_by})
            if time.monotonic() > deadline:
                raise StoreError(
                    f"{self._place} is in use by another comfyk of the name {self.name!r} "
                    f"({_holders(connection, self._key)}). Stop that one, or give this one a name of its own with "
                    "storage.server_name."
                )
            connection.rollback()
            time.sleep(0.05)
        self._held_by = backend
        connection.commit()

    def show(self, connection: Connection) -> None:
        """Keep others from changing the schema for as long as `connection` is open.

        Raises StoreError when a server is there that must be alone. Does not end the transaction.
        """
        if not connection.scalar(text("SELECT pg_try_advisory_lock_shared(:key)"), {"key": _PRESENCE}):
            raise StoreError(
                f"{self._place} is in use by another comfyk that shares it with none "
                f"({_holders(connection, _PRESENCE)}): an older version, or one that upgrades it. "
                "Stop that one, or try again in a moment."
            )


def _holders(connection: Connection, key: int) -> str:
    found = [
        f"{row.application_name}, connected from {row.client_addr or 'this machine'}"
        for row in connection.execute(_HOLDERS, {"key": key})
    ]
    return "; ".join(found) or "unknown"


def _key(name: str) -> int:
    """A lock's number."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)
