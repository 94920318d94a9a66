"""What the store does so that nothing is lost while its database is: for SQLite, whose files anybody may take away."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from comfyk_storage.files import DatabaseFiles, FilesGoneError
from comfyk_storage.rescue import Unsaved, copy_database, rescued_file, unsaved_file
from comfyk_storage.unfinished import UnfinishedRows

log = logging.getLogger(__name__)

_ENDED_BYTES = 8_000_000
"""Entries of jobs that ended last, together, at most."""


class Keeping:
    """Looks at the files, and holds in memory what would go with them."""

    def __init__(self, file: Path) -> None:
        """Once the database is open and whole."""
        self.unfinished = UnfinishedRows()
        self.unsaved = Unsaved(file)
        self._file = file
        self._files = DatabaseFiles(file)
        self._ended: dict[str, dict[str, Any]] = {}
        self._ended_bytes = 0
        self._error: FilesGoneError | None = None

    def ended(self, job_id: str, row: Mapping[str, Any]) -> None:
        """A job's end is in the database: what changed in its row."""
        known = self.unfinished.forget(job_id)
        if known is None:
            return  # it was in the database before: what is there of it is old enough
        self._ended[job_id] = {**known, **row, "id": job_id}
        self._ended_bytes += len(row["entry"])
        while self._ended_bytes > _ENDED_BYTES:
            self._ended_bytes -= len(self._ended.pop(next(iter(self._ended)))["entry"])

    def check(self, connection: Connection | None) -> None:
        """Raises FilesGoneError when what is written would be lost, and sees to it that what was written is not.

        On the writer's thread, with its connection. Once the files are as they were, all is well again.
        """
        try:
            self._files.check()
        except FilesGoneError as error:
            if self._error is None:
                self._error = FilesGoneError(
                    f"{error}, so nothing more is kept in it. {self._save(connection)}"
                )
                log.error("%s", self._error)
            raise FilesGoneError(str(self._error)) from None
        if self._error is not None:
            self._error = None
            rescued_file(self._file).unlink(missing_ok=True)
            log.warning("The files of the database %s are as they were.", self._file)

    def _save(self, connection: Connection | None) -> str:
        """Write what is known beside the database; returns what became of it, in words."""
        raw: Any = None if connection is None else connection.connection.dbapi_connection
        if raw is not None and copy_database(raw, self._file) is not None:
            return f"All of it is in {rescued_file(self._file)}, which the next start puts in its place."
        rows = [*self.unfinished, *list(self._ended.values())]
        if self.unsaved.add(rows):
            return (
                f"The {len(rows)} jobs that are in memory, which came in last, are in {unsaved_file(self._file)}: the "
                "next start reads it. If the database is damaged then, restore a backup, or move it away."
            )
        return "What is in memory could not be written either: see the log."

    def close(self) -> None:
        """When all connections are closed."""
        self._files.close()
