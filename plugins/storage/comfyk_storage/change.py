"""What the writer is asked to write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from comfyk.jobs import StoreError
from sqlalchemy import Connection, CursorResult
from sqlalchemy.sql import Executable


@dataclass(slots=True, eq=False)
class Change:
    """One statement that a caller awaits, run once for each of `rows`."""

    statement: Executable
    rows: list[dict[str, Any]]
    history: int = 0
    """What each changed row does to the number of finished jobs: 1, 0 or -1."""
    unchanged: Callable[[Connection], StoreError] | None = None
    """The caller's error when no row was changed; None when that is fine."""
    result: Callable[[CursorResult[Any]], Any] | None = None
    """What the caller gets of the statement's result. Such a change has one row."""
    committed: Callable[[], None] | None = None
    """Called once it is durable, on the caller's loop, in the order of the changes."""
