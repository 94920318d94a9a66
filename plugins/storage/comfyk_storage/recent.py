"""The history entries of the jobs that ended last, in memory: clients ask for these, once they hear of the end.

Exact, for a store that nobody else writes to: whatever changes the history changes this in the same order.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import NamedTuple

from comfyk_storage.retention import DAY_MS

BYTES = 8_000_000
"""All entries together, at most."""


class Recent(NamedTuple):
    user: str
    finished_at: int
    entry: bytes


class RecentEntries:
    """Entries by job id, oldest first."""

    def __init__(self, limit: int, max_age_days: int | None, max_bytes: int = BYTES) -> None:
        """As retention has it: the `limit` jobs that ended last (all for 0) are never dropped, but for their age."""
        self._limit = limit
        self._max_age_days = max_age_days
        self._max_bytes = max_bytes
        self._entries: dict[str, Recent] = {}
        self._bytes = 0

    def get(self, job_id: str) -> Recent | None:
        """The entry, if it is certain that it is in the history; None when the database has to be asked."""
        found = self._entries.get(job_id)
        if found is None or self._max_age_days is None:
            return found
        too_old = found.finished_at < time.time() * 1000 - self._max_age_days * DAY_MS
        return None if too_old else found

    def add(self, job_id: str, user: str, finished_at: int, entry: bytes) -> None:
        """Add the job that has ended last."""
        self._entries[job_id] = Recent(user, finished_at, entry)
        self._bytes += len(entry)
        while self._bytes > self._max_bytes or len(self._entries) > self._limit > 0:
            self._drop(next(iter(self._entries)))

    def forget(self, ids: Collection[str] | None, user: str | None) -> None:
        """These were deleted from the history, all for None; with `user` only theirs."""
        for job_id in [*self._entries] if ids is None else ids:
            found = self._entries.get(job_id)
            if found is not None and user in (None, found.user):
                self._drop(job_id)

    def _drop(self, job_id: str) -> None:
        self._bytes -= len(self._entries.pop(job_id).entry)
