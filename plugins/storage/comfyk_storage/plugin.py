"""The hooks of this plugin: its settings, and the durable job store that it opens.

SQLAlchemy is imported when the store is opened, so that a command which needs no store does not pay for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from comfyk import hookimpl
from comfyk.settings import Option, Section
from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from comfyk.app import App
    from comfyk.jobs.store import JobStore


class StorageSettings(Section):
    """The section `storage`."""

    database_url: Annotated[str | None, Option("--database-url", metavar="URL")] = Field(
        None,
        description="Where jobs are kept: sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME. "
        "Without one: comfyk.db in the user folder.",
    )
    synchronous: Literal["normal", "full"] = Field(
        "normal",
        description="SQLite only. normal: nothing is lost when the process dies; a power failure may cost "
        "the last moments. full: nothing is lost then either, and each change waits for the disk.",
    )
    history_limit: int = Field(10_000, ge=0, description="How many finished jobs to keep; 0 keeps all.")
    history_max_age_days: int | None = Field(
        None, ge=1, description="Finished jobs older than this are dropped; unset keeps them."
    )
    busy_timeout_s: float = Field(
        5, ge=0, description="How long to wait when another program has locked the database."
    )


@hookimpl
def comfyk_register_settings() -> dict[str, type[BaseModel]]:
    return {"storage": StorageSettings}


@hookimpl
def comfyk_open_job_store(app: App) -> JobStore:
    from comfyk_storage.engine import sqlite_url
    from comfyk_storage.job_store import SqlJobStore

    settings = app.settings.section("storage", StorageSettings)
    return SqlJobStore.open(
        settings.database_url or sqlite_url(app.folders.user / "comfyk.db"),
        synchronous=settings.synchronous,
        history_limit=settings.history_limit,
        history_max_age_days=settings.history_max_age_days,
        busy_timeout_s=settings.busy_timeout_s,
    )
