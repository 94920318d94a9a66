"""The rows of jobs that came in last and have not ended, in memory: they would be lost with the database's files, and
are run soon, as a rule.

Exact as far as it goes, for a store that nobody else writes to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

BYTES = 16_000_000
"""The bodies of all rows together, at most."""


class UnfinishedRows:
    """Rows by job id, in the order in which they came; those of the oldest are forgotten for want of room."""

    def __init__(self, max_bytes: int = BYTES) -> None:
        self._max_bytes = max_bytes
        self._rows: dict[str, dict[str, Any]] = {}
        self._bytes = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(list(self._rows.values()))

    def get(self, job_id: str) -> dict[str, Any] | None:
        return self._rows.get(job_id)

    def add(self, row: Mapping[str, Any]) -> None:
        """A job came in."""
        self._rows[row["id"]] = dict(row)
        self._bytes += _size(row)
        while self._bytes > self._max_bytes:
            self.forget(next(iter(self._rows)))

    def change(self, job_id: str, **values: Any) -> None:
        """Columns of a job have new values."""
        if (row := self._rows.get(job_id)) is not None:
            row.update(values)

    def forget(self, job_id: str) -> dict[str, Any] | None:
        """A job has ended, or was taken out; returns its row, if it is known."""
        row = self._rows.pop(job_id, None)
        if row is not None:
            self._bytes -= _size(row)
        return row


def _size(row: Mapping[str, Any]) -> int:
    return len(row["body"]) + len(row.get("sensitive") or b"") + 500
