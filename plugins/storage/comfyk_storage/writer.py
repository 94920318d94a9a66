"""Group commit: changes that many callers await at once are written by one thread, in one transaction.

A commit costs about as much for one change as for three hundred, so whatever has piled up while the last
transaction was written goes into the next one. Each caller is told only after the commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from queue import Empty, SimpleQueue
from typing import Any

from comfyk.jobs import StoreError
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql import Executable

from comfyk_storage.change import Change
from comfyk_storage.driver import Driver
from comfyk_storage.errors import BusyError, ConflictError, DisconnectedError, store_error
from comfyk_storage.retention import Retention

log = logging.getLogger(__name__)

BATCH = 1000
"""Changes in one transaction, at most."""
_CLOSE_S = 8.0
_TRIES = 5
"""How often a change is tried that gets in the way of another server's."""


class _NothingChanged(Exception):
    """A row of one change in the batch was not there, or was there already."""


@dataclass(slots=True, eq=False)
class _Waiting:
    change: Change
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class Writer:
    """The thread that writes, on `connection`; `connect` opens another when that was lost."""

    def __init__(
        self,
        connection: Connection,
        connect: Callable[[], Connection],
        retention: Retention,
        place: str,
        check: Callable[[Connection | None], None] = lambda connection: None,
        driver: Driver | None = None,
    ) -> None:
        """`check` raises StoreError when what is written would be lost, or has been; it is given the connection."""
        self._connection: Connection | None = connection
        self._connect = connect
        self._retention = retention
        self._place = place
        self._check = check
        self._driver = driver or Driver()
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._closed = False
        self._closing = threading.Lock()
        """Nothing is queued behind the end."""
        self._thread = threading.Thread(target=self._run, name="comfyk-storage-writer", daemon=True)
        self._thread.start()

    def submit(self, change: Change) -> asyncio.Future[Any]:
        """Queue a change; the future has its result when it is durable, or fails with StoreError.

        A caller that stops waiting does not stop the change.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        with self._closing:
            if not self._closed:
                self._queue.put(_Waiting(change, future, loop))
                return future
        future.set_exception(StoreError(f"{self._place} has been closed; start the server again."))
        return future

    def close(self) -> bool:
        """Write what is queued, then stop. Blocks, but not for ever: returns whether it has. Call it once."""
        with self._closing:
            self._closed = True
            self._queue.put(None)
        self._thread.join(_CLOSE_S)
        if self._thread.is_alive():
            log.error("%s does not answer; what is being written is left to itself", self._place)
            return False
        if self._connection is not None:
            with contextlib.suppress(SQLAlchemyError):  # the database has closed it before us
                self._connection.close()
        return True

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
            try:
                results = self._write(batch)
            except (
                Exception
            ) as error:  # a fault of ours: the callers must hear, and the next batch be written
                log.exception("the writer failed")
                results = [StoreError(f"{self._place}: nothing was written: {error!r}")] * len(batch)
            self._answer(batch, results)
            del first, batch, results  # which would stay in memory until there is more to write

    def _answer(self, batch: list[_Waiting], results: list[Any]) -> None:
        def resolve() -> None:
            for waiting, result in zip(batch, results, strict=True):
                failed = isinstance(result, StoreError)
                if waiting.change.committed is not None and not failed:
                    try:
                        waiting.change.committed()
                    except Exception:  # it is kept all the same, and so are the others
                        log.exception("what follows a change failed")
                if waiting.future.done():
                    continue
                if failed:
                    waiting.future.set_exception(result)
                else:
                    waiting.future.set_result(result)

        try:
            batch[0].loop.call_soon_threadsafe(resolve)
        except RuntimeError:
            pass  # the loop is closed: nobody waits

    def _write(self, batch: list[_Waiting]) -> list[Any]:
        """Write the batch as one, or, when a change fails for a reason of its own, each by itself.

        Returns what each caller gets: a result, or a StoreError.
        """
        changes = [waiting.change for waiting in batch]
        try:
            return self._transaction(changes)
        except (BusyError, DisconnectedError) as error:
            # It would be the same for each: do not wait as often.
            return [error] * len(batch)
        except (_NothingChanged, StoreError) as error:
            if len(batch) == 1 and not isinstance(error, ConflictError):
                return [self._own(changes[0], error)]
        return [self._write_one(change) for change in changes]

    def _write_one(self, change: Change) -> Any:
        for tried in range(1, _TRIES + 1):
            try:
                return self._transaction([change])[0]
            except (_NothingChanged, StoreError) as error:
                if not isinstance(error, ConflictError) or tried == _TRIES:
                    return self._own(change, error)
        return None

    def _own(self, change: Change, error: Exception) -> StoreError:
        if not isinstance(error, _NothingChanged):
            return store_error(error, self._place)
        connection = self._connection
        assert change.unchanged is not None
        if connection is None:  # it was lost when nothing had changed
            return DisconnectedError(f"{self._place}: the connection was lost. It is opened anew as needed.")
        try:
            found = change.unchanged(connection)
            connection.rollback()
        except Exception as reason:
            found = store_error(reason, self._place)
            self._roll_back(connection, lost=isinstance(found, DisconnectedError))
        return found

    def _transaction(self, changes: list[Change]) -> list[Any]:
        """Raises StoreError or _NothingChanged, and then nothing of it was kept."""
        results: dict[int, Any] = {}
        connection: Connection | None = None
        try:
            self._check(self._connection)
            if self._connection is None:
                self._connection = self._connect()
            connection = self._connection
            self._retention.begin(connection, changes)
            history = 0
            for statement, rows, change in _runs(changes):
                if change.result is not None:
                    results[id(change)] = change.result(connection.execute(statement, rows[0]))
                    continue
                changed = self._driver.execute(connection, statement, rows)
                history += changed * change.history
                if change.unchanged is not None and changed < len(rows):
                    raise _NothingChanged
            count = self._retention.apply(connection, history)
            self._driver.commit(connection)
            self._retention.count = count
            self._check(connection)
        except Exception as error:
            failure = error if isinstance(error, _NothingChanged) else store_error(error, self._place)
            if connection is not None:
                self._roll_back(connection, lost=isinstance(failure, DisconnectedError))
            raise failure from error
        return [results.get(id(change)) for change in changes]

    def _roll_back(self, connection: Connection, lost: bool) -> None:
        try:
            self._driver.roll_back(connection)
        except Exception:
            lost = True
        if lost:
            # A new connection must take the database's lock again.
            connection.invalidate()
            connection.close()
            self._connection = None


def _runs(changes: list[Change]) -> Iterator[tuple[Executable, list[dict[str, Any]], Change]]:
    """Neighbours with the same statement as one, in the order in which they came; one with a result by itself."""
    for _, run in groupby(changes, key=lambda c: id(c.statement if c.result is None else c)):
        same = list(run)
        if rows := [row for change in same for row in change.rows]:
            yield same[0].statement, rows, same[0]
