"""How much history is kept: so many jobs, so many days."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, delete, func, select, update

from comfyk_storage.change import Change
from comfyk_storage.schema import ENDED, history_count, jobs

_HOUR = 3600
DAY_MS = 86_400_000

_COUNT = select(func.count()).select_from(jobs).where(ENDED)
_DROP_OLDEST = delete(jobs).where(
    jobs.c.history_seq.in_(
        select(jobs.c.history_seq).where(ENDED).order_by(jobs.c.history_seq).limit(bindparam("excess"))
    )
)
_DROP_OLDER = delete(jobs).where(ENDED, jobs.c.finished_at < bindparam("cutoff"))
_TAKE_NUMBERS = (
    update(history_count)
    .values(last_seq=history_count.c.last_seq + bindparam("wanted"))
    .returning(history_count.c.last_seq, history_count.c.finished)
)
_SET_FINISHED = update(history_count).values(finished=bindparam("now_finished"))


class Retention:
    """Drops history in the transactions that add to it; counts along, so as not to ask each time."""

    def __init__(self, limit: int, max_age_days: int | None) -> None:
        self.count = 0
        """Finished jobs, as of the last commit."""
        self._limit = limit
        self._max_age_days = max_age_days
        self._next_check = 0.0

    def clean(self, connection: Connection) -> None:
        """Count, and drop what is too much or too old now."""
        self.count = connection.scalar(_COUNT) or 0
        self.count = self.apply(connection, 0)

    def begin(self, connection: Connection, changes: Sequence[Change]) -> None:
        """Called before a transaction's changes."""

    def apply(self, connection: Connection, added: int) -> int:
        """Drop what is too much or (looked for once an hour) too old; returns how many are left.

        `added` is what this transaction has done to the number of finished jobs.
        """
        count = self.count + added
        if self._limit and count > self._limit:
            count -= connection.execute(_DROP_OLDEST, {"excess": count - self._limit}).rowcount
        if self._max_age_days is not None and time.monotonic() >= self._next_check:
            self._next_check = time.monotonic() + _HOUR
            cutoff = int(time.time() * 1000) - self._max_age_days * DAY_MS
            count -= connection.execute(_DROP_OLDER, {"cutoff": cutoff}).rowcount
        return count


class SharedRetention(Retention):
    """The same where several servers add to one history: they count in the database, one after the other.

    It also numbers the jobs that end, in the order in which they are committed.
    """

    def __init__(self, limit: int, max_age_days: int | None) -> None:
        super().__init__(limit, max_age_days)
        self._begun = False
        self._last_seq = 0

    def begin(self, connection: Connection, changes: Sequence[Change]) -> None:
        """Lock the count, if this is about the history, before anything else is locked."""
        self._begun = any(change.history for change in changes)
        if self._begun:
            ending = [row for change in changes if change.history > 0 for row in change.rows]
            self._lock(connection, len(ending))
            for number, row in enumerate(ending, self._last_seq - len(ending) + 1):
                row["history_seq"] = number

    def apply(self, connection: Connection, added: int) -> int:
        """As above; nothing happens in a transaction that is not about the history."""
        if not self._begun:
            return self.count
        count = super().apply(connection, added)
        connection.execute(_SET_FINISHED, {"now_finished": count})
        return count

    def clean(self, connection: Connection) -> None:
        self._begun = True
        self._lock(connection, 0)
        self.apply(connection, 0)

    def _lock(self, connection: Connection, wanted: int) -> None:
        self._last_seq, self.count = connection.execute(_TAKE_NUMBERS, {"wanted": wanted}).one()
