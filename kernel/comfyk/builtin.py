"""What the kernel itself brings, as a plugin like any other: named `kernel`, and called last."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from comfyk.events import Event, JobEnded, JobQueued
from comfyk.hooks import hookimpl

if TYPE_CHECKING:
    from comfyk.app import App
    from comfyk.execution.cache import OutputCache
    from comfyk.execution.executor import ThreadExecutor
    from comfyk.jobs.memory import MemoryJobStore

log = logging.getLogger("comfyk.jobs")


@hookimpl(trylast=True)
def comfyk_open_job_store(app: App) -> MemoryJobStore:
    from comfyk.jobs.memory import MemoryJobStore

    return MemoryJobStore()


@hookimpl(trylast=True)
def comfyk_create_executor(app: App) -> ThreadExecutor:
    from comfyk.execution.executor import ThreadExecutor

    return ThreadExecutor.of(app)


@hookimpl(trylast=True)
def comfyk_create_cache(app: App) -> OutputCache:
    from comfyk.execution.cache import make_cache

    return make_cache(app.settings.execution)


@hookimpl(trylast=True)
def comfyk_startup(app: App) -> None:
    app.events.subscribe(_log_jobs, JobQueued, JobEnded)


def _log_jobs(event: Event) -> None:
    """In the words that programs which read ComfyUI's log look for."""
    if isinstance(event, JobQueued):
        log.info("got prompt %s", event.job_id)
    elif isinstance(event, JobEnded) and event.seconds is not None:
        log.info("Prompt executed in %.2f seconds: %s, %s", event.seconds, event.job_id, event.status)
