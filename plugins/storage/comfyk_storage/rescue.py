"""What becomes of a SQLite database whose files are taken away or cut short under the server, and of changes that
could not be stored.

    comfyk.db.rescued   a whole copy of a database whose files were deleted; the next start puts it in their place
    comfyk.db.unsaved   rows, one JSON a line, that are not in the database; the next start writes them into it

Both are beside the database, and both are read when a store is opened, before anything else.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from comfyk.atomic import write_file
from comfyk.jobs import JobStatus
from sqlalchemy import Connection, LargeBinary, bindparam, func, insert, select, update

from comfyk_storage.schema import jobs

log = logging.getLogger(__name__)

Row = Mapping[str, Any]
"""Columns of `comfyk_jobs` by name, `id` among them."""

_JSON = frozenset(column.name for column in jobs.columns if isinstance(column.type, LargeBinary))
"""Columns that hold JSON as bytes."""
_PENDING = {"status": JobStatus.PENDING.value, "started_at": None}


def rescued_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.rescued")


def unsaved_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.unsaved")


# --- a copy of the database -------------------------------------------------------------------------------------


def copy_database(connection: sqlite3.Connection, file: Path) -> Path | None:
    """A copy of what an open connection still sees, whole and checked; None when it sees it no more."""
    target = rescued_file(file)
    partial = target.with_name(f"{target.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        copy = sqlite3.connect(partial)
        try:
            connection.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, with all that is in it
            if copy.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                return None
        finally:
            copy.close()
        os.chmod(partial, 0o600)
        os.replace(partial, target)
        return target
    except (sqlite3.Error, OSError) as error:
        log.error("%s cannot be copied to %s: %s", file, target, error)
        partial.unlink(missing_ok=True)
        return None


def put_in_place(file: Path) -> None:
    """Put a rescued copy in the place of the database, whose own files stay beside it. Raises OSError."""
    rescued = rescued_file(file)
    if not rescued.exists():
        return
    damaged = file.with_name(f"{file.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
    for suffix in ("", "-wal", "-shm"):
        left = Path(f"{file}{suffix}")
        if left.exists() and left.stat().st_size == 0:
            left.unlink()
        elif left.exists():
            os.replace(left, f"{damaged}{suffix}")
    os.replace(rescued, file)
    log.warning("%s was put in the place of %s, whose files are now %s", rescued, file, damaged)


# --- rows that are not in the database --------------------------------------------------------------------------


class Unsaved:
    """The rows that could not be stored, in memory and in their file."""

    def __init__(self, file: Path) -> None:
        """`file` is the database."""
        self._file = unsaved_file(file)
        self._rows: dict[str, Row] = {}

    def __bool__(self) -> bool:
        return bool(self._rows)

    def add(self, rows: Iterable[Row]) -> bool:
        """Keep rows, the last one of each job; returns whether they are on the disk."""
        self._rows.update({row["id"]: row for row in rows})
        return self._write()

    def drop(self, job_id: str) -> None:
        """The job's row is in the database now."""
        if self._rows.pop(job_id, None) is not None:
            self._write()

    def _write(self) -> bool:
        try:
            if self._rows:
                text = "".join(f"{_written(row)}\n" for row in self._rows.values())
                write_file(self._file, text, private=True)
            else:
                self._file.unlink(missing_ok=True)
        except OSError as error:
            log.error("%s cannot be written: %s", self._file, error)
            return False
        return True


def take_in_unsaved(connection: Connection, file: Path) -> int:
    """Write the rows of the file of unsaved ones into the database, if there is one; returns how many there were.

    The file goes when that is committed: the caller commits, then calls `forget_unsaved`.
    """
    rows = list(_read(unsaved_file(file)))
    ended = connection.scalar(select(func.max(jobs.c.history_seq))) or 0
    for row in rows:
        known = connection.execute(select(jobs.c.history_seq).where(jobs.c.id == row["id"])).first()
        if known is not None and known.history_seq is not None:
            continue  # it has ended, which is the last that can be said of a job
        if row.get("entry") is not None:
            ended += 1
            row["history_seq"] = ended
        else:
            row |= _PENDING  # nothing runs when a store is opened
        if known is None:
            if "body" not in row or "created_at" not in row:
                log.error("the job %s in %s is not whole: it is lost", row["id"], unsaved_file(file))
                continue
            connection.execute(insert(jobs), row)
        else:
            values = {name: value for name, value in row.items() if name not in ("id", "created_at", "seq")}
            connection.execute(
                update(jobs).where(jobs.c.id == bindparam("job_id")).values(**values), {"job_id": row["id"]}
            )
    if rows:
        log.warning("%d jobs were read from %s", len(rows), unsaved_file(file))
    return len(rows)


def forget_unsaved(file: Path) -> None:
    """What was in the file is in the database."""
    try:
        unsaved_file(file).unlink(missing_ok=True)
    except OSError as error:  # it is read again the next time, and changes nothing then
        log.warning("%s cannot be deleted: %s", unsaved_file(file), error)


def _written(row: Row) -> str:
    return json.dumps(
        {
            name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            for name, value in row.items()
        }
    )


def _read(file: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return
    columns = {column.name for column in jobs.columns} - {"seq"}
    for line in lines:
        try:
            row = {name: value for name, value in json.loads(line).items() if name in columns}
            row["id"] = str(row["id"])
        except (ValueError, KeyError, AttributeError) as error:
            log.error("a line of %s is no job: %s", file, error)
            continue
        yield {
            name: value.encode() if name in _JSON and isinstance(value, str) else value
            for name, value in row.items()
        }
