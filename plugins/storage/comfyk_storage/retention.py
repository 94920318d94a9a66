"""How much history is kept: so many jobs, so many days."""

from __future__ import annotations

import time

from sqlalchemy import Connection, bindparam, delete, func, select

from comfyk_storage.schema import jobs

_HOUR = 3600
_DAY_MS = 86_400_000

_ENDED = jobs.c.history_seq.is_not(None)
_COUNT = select(func.count()).select_from(jobs).where(_ENDED)
_DROP_OLDEST = delete(jobs).where(
    jobs.c.history_seq.in_(
        select(jobs.c.history_seq).where(_ENDED).order_by(jobs.c.history_seq).limit(bindparam("excess"))
    )
)
_DROP_OLDER = delete(jobs).where(_ENDED, jobs.c.finished_at < bindparam("cutoff"))


class Retention:
    """Drops history in the transactions that add to it; counts along, so as not to ask each time."""

    def __init__(self, connection: Connection, limit: int, max_age_days: int | None) -> None:
        self.count: int = connection.scalar(_COUNT) or 0
        """Finished jobs, as of the last commit."""
        self._limit = limit
        self._max_age_days = max_age_days
        self._next_check = 0.0

    def apply(self, connection: Connection, added: int) -> int:
        """Drop what is too much or (looked for once an hour) too old; returns how many are left.

        `added` is what this transaction has done to the number of finished jobs.
        """
        count = self.count + added
        if self._limit and count > self._limit:
            count -= connection.execute(_DROP_OLDEST, {"excess": count - self._limit}).rowcount
        if self._max_age_days is not None and time.monotonic() >= self._next_check:
            self._next_check = time.monotonic() + _HOUR
            cutoff = int(time.time() * 1000) - self._max_age_days * _DAY_MS
            count -= connection.execute(_DROP_OLDER, {"cutoff": cutoff}).rowcount
        return count
