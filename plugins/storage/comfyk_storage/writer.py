"""Group commit: changes that many callers await at once are written by one thread, in one transaction.

A commit costs about as much for one change as for three hundred, so whatever has piled up while the last
transaction was written goes into the next one. Each caller is told only after the commit.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from queue import Empty, SimpleQueue
from typing import Any

from comfyk.jobs.store import StoreError
from sqlalchemy import Connection
from sqlalchemy.sql import Executable

from comfyk_storage.errors import BusyError, DisconnectedError, store_error
from comfyk_storage.retention import Retention

BATCH = 1000
"""Changes in one transaction, at most."""


@dataclass(slots=True, eq=False)
class Change:
    """One statement that a caller awaits, run once for each of `rows`."""

    statement: Executable
    rows: list[dict[str, Any]]
    history: int = 0
    """What each changed row does to the number of finished jobs: 1, 0 or -1."""
    unchanged: Callable[[], StoreError] | None = None
    """The caller's error when no row was changed; None when that is fine."""


class _NothingChanged(Exception):
    """A row of one change in the batch was not there, or was there already."""


@dataclass(slots=True, eq=False)
class _Waiting:
    change: Change
    future: asyncio.Future[None]
    loop: asyncio.AbstractEventLoop


class Writer:
    """The thread that writes, on `connection`; `connect` opens another when that was lost."""

    def __init__(
        self,
        connection: Connection,
        connect: Callable[[], Connection],
        retention: Retention,
        place: str,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`check` raises StoreError when what is written would be lost."""
        self._connection: Connection | None = connection
        self._connect = connect
        self._retention = retention
        self._place = place
        self._check = check
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="comfyk-storage-writer", daemon=True)
        self._thread.start()

    def submit(self, change: Change) -> asyncio.Future[None]:
        """Queue a change; the future is done when it is durable, or fails with StoreError.

        A caller that stops waiting does not stop the change.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        if self._closed:
            future.set_exception(StoreError(f"{self._place} has been closed; start the server again."))
        else:
            self._queue.put(_Waiting(change, future, loop))
        return future

    def close(self) -> None:
        """Write what is queued, then stop. Blocks; call it once."""
        self._closed = True
        self._queue.put(None)
        self._thread.join()
        if self._connection is not None:
            self._connection.close()

    def _run(self) -> None:
        last = False
        while not last:
            first = self._queue.get()
            if first is None:
                return
            batch = [first]
            while len(batch) < BATCH:
                try:
                    waiting = self._queue.get_nowait()
                except Empty:
                    break
                if waiting is None:
                    last = True
                    break
                batch.append(waiting)
            self._answer(batch, self._write(batch))

    def _answer(self, batch: list[_Waiting], errors: list[StoreError | None]) -> None:
        def resolve() -> None:
            for waiting, error in zip(batch, errors, strict=True):
                if waiting.future.done():
                    continue
                if error is None:
                    waiting.future.set_result(None)
                else:
                    waiting.future.set_exception(error)

        try:
            batch[0].loop.call_soon_threadsafe(resolve)
        except RuntimeError:
            pass  # the loop is closed: nobody waits

    def _write(self, batch: list[_Waiting]) -> list[StoreError | None]:
        """Write the batch as one, or, when a change fails for a reason of its own, each by itself."""
        changes = [waiting.change for waiting in batch]
        try:
            self._transaction(changes)
        except (BusyError, DisconnectedError) as error:
            # It would be the same for each: do not wait as often.
            return [error] * len(batch)
        except (_NothingChanged, StoreError) as error:
            if len(batch) == 1:
                return [self._own(changes[0], error)]
        else:
            return [None] * len(batch)
        return [self._write_one(change) for change in changes]

    def _write_one(self, change: Change) -> StoreError | None:
        try:
            self._transaction([change])
        except (_NothingChanged, StoreError) as error:
            return self._own(change, error)
        return None

    def _own(self, change: Change, error: Exception) -> StoreError:
        if isinstance(error, _NothingChanged):
            assert change.unchanged is not None
            return change.unchanged()
        return store_error(error, self._place)

    def _transaction(self, changes: list[Change]) -> None:
        """Raises StoreError or _NothingChanged, and then nothing of it was kept."""
        connection: Connection | None = None
        try:
            self._check()
            if self._connection is None:
                self._connection = self._connect()
            connection = self._connection
            history = 0
            for statement, rows, change in _runs(changes):
                changed = connection.execute(statement, rows[0] if len(rows) == 1 else rows).rowcount
                history += changed * change.history
                if change.unchanged is not None and changed < len(rows):
                    raise _NothingChanged
            count = self._retention.apply(connection, history)
            connection.commit()
            self._retention.count = count
        except Exception as error:
            failure = error if isinstance(error, _NothingChanged) else store_error(error, self._place)
            if connection is not None:
                self._roll_back(connection, lost=isinstance(failure, DisconnectedError))
            raise failure from error

    def _roll_back(self, connection: Connection, lost: bool) -> None:
        try:
            connection.rollback()
        except Exception:
            lost = True
        if lost:
            # A new connection must take the database's lock again.
            connection.invalidate()
            connection.close()
            self._connection = None


def _runs(changes: list[Change]) -> Iterator[tuple[Executable, list[dict[str, Any]], Change]]:
    """Neighbours with the same statement as one, in the order in which they came."""
    for _, run in groupby(changes, key=lambda change: id(change.statement)):
        same = list(run)
        if rows := [row for change in same for row in change.rows]:
            yield same[0].statement, rows, same[0]
