"""The hooks of this plugin: its settings, the durable job store, plugins' databases, and what is wrong with them.

SQLAlchemy is imported when a database is opened, so that a command which needs none does not pay for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from comfyk import hookimpl
from comfyk.settings import Option, Section
from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from comfyk import App
    from comfyk.database import Database
    from comfyk.doctor import Finding
    from comfyk.jobs import JobStore


class StorageSettings(Section):
    """The section `storage`."""

    database_url: Annotated[str | None, Option("--database-url", metavar="URL")] = Field(
        None,
        description="Where jobs are kept: sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME, which several "
        "servers may share. Without one: comfyk.db in the user folder.",
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
    server_name: str = Field(
        "",
        max_length=200,
        description="PostgreSQL only: this server's name among those that share it, the same at each start. Unset: "
        "the machine's name and the user folder.",
    )
    lease_s: float = Field(
        30,
        ge=0.5,
        le=86_400,
        description="PostgreSQL only: how long after a server was last heard of another takes over its jobs.",
    )


@hookimpl
def comfyk_register_settings() -> dict[str, type[BaseModel]]:
    return {"storage": StorageSettings}


@hookimpl
def comfyk_open_job_store(app: App) -> JobStore:
    from comfyk_storage.opening import open_job_store

    settings = _settings(app)
    return open_job_store(
        _url(app),
        synchronous=settings.synchronous,
        history_limit=settings.history_limit,
        history_max_age_days=settings.history_max_age_days,
        busy_timeout_s=settings.busy_timeout_s,
        server_name=settings.server_name or _own_name(app),
        lease_s=settings.lease_s,
    )


@hookimpl
def comfyk_open_database(app: App, name: str, migrations: Path | None) -> Database:
    from comfyk_storage.database import open_database

    settings = _settings(app)
    return open_database(
        _url(app),
        name,
        migrations,
        synchronous=settings.synchronous,
        busy_timeout_s=settings.busy_timeout_s,
    )


@hookimpl
def comfyk_doctor(app: App) -> Iterable[Finding]:
    from comfyk_storage.diagnosis import diagnose

    return diagnose(_url(app))


@hookimpl
def comfyk_snapshot(app: App) -> Mapping[str, Any]:
    from comfyk_storage.engine import parse_url
    from comfyk_storage.schema import HEAD

    # Where it is belongs to the machine; what is in it, to its users.
    return {"database": parse_url(_url(app)).get_backend_name(), "revision": HEAD}


def _settings(app: App) -> StorageSettings:
    return app.settings.section("storage", StorageSettings)


def _url(app: App) -> str:
    from comfyk_storage.engine import sqlite_url

    return _settings(app).database_url or sqlite_url(app.folders.user / "comfyk.db")


def _own_name(app: App) -> str:
    import socket

    return f"{socket.gethostname()}:{app.folders.user}"
