"""What the kernel itself brings, as a plugin like any other: named `kernel`, and called last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from comfyk.events import JobEnded, JobQueued, Progress
from comfyk.hooks import hookimpl
from comfyk.pack_module import load_module, unload_module

if TYPE_CHECKING:
    from comfyk.app import App
    from comfyk.doctor import Finding
    from comfyk.execution.cache import OutputCache
    from comfyk.execution.executor import ThreadExecutor
    from comfyk.jobs.memory import MemoryJobStore
    from comfyk.pack_info import PackInfo
    from comfyk.temp_files import TempFiles

_temp_files: WeakKeyDictionary[App, TempFiles] = WeakKeyDictionary()
_end_log: WeakKeyDictionary[App, list[Callable[[], None]]] = WeakKeyDictionary()
"""What ends the log of an app's jobs, and of how far they are."""


@hookimpl(trylast=True)
def comfyk_create_event_loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


@hookimpl(trylast=True)
def comfyk_load_pack(app: App, pack: PackInfo) -> bool:
    load_module(pack, app.nodes, app.web_directories)
    return True


@hookimpl(trylast=True)
def comfyk_unload_pack(pack: PackInfo) -> bool:
    unload_module(pack)
    return True


@hookimpl(trylast=True)
def comfyk_open_job_store(app: App) -> MemoryJobStore:
    from comfyk.jobs.memory import MemoryJobStore

    return MemoryJobStore()


@hookimpl(trylast=True)
def comfyk_create_executor(app: App) -> ThreadExecutor:
    from comfyk.execution.executor import ThreadExecutor

    cache = app.hook.comfyk_create_cache()
    return ThreadExecutor(app.nodes, app.events, app.hook, cache, on_thread=app.enter)


@hookimpl(trylast=True)
def comfyk_create_cache(app: App) -> OutputCache:
    from comfyk.execution.cache import GIB, ClassicCache, LruCache, NullCache, RamPressureCache

    settings = app.settings.execution
    match settings.cache:
        case "classic":
            return ClassicCache()
        case "lru":
            return LruCache(settings.cache_lru)
        case "none":
            return NullCache()
    import psutil

    total = psutil.virtual_memory().total
    active = settings.cache_ram_gb
    inactive = settings.cache_ram_inactive_gb
    return RamPressureCache(
        headroom=int(active * GIB) if active is not None else min(10 * GIB, max(2 * GIB, total // 10)),
        inactive_headroom=int(inactive * GIB) if inactive is not None else None,
    )


@hookimpl(trylast=True)
def comfyk_startup(app: App) -> None:
    from comfyk.jobs.job_log import JobLog
    from comfyk.jobs.progress_log import ProgressLog, terminal
    from comfyk.temp_files import TempFiles

    job_log = JobLog()

    def class_of(job_id: str, node_id: str) -> str | None:
        job = next((job for job in app.jobs.running if job.id == job_id), None)
        return None if job is None else job.prompt.get(node_id, {}).get("class_type")

    _end_log[app] = [
        app.events.subscribe(ProgressLog(class_of, terminal()), Progress, JobEnded),
        app.events.subscribe(job_log, JobQueued, JobEnded),
        job_log.flush,
    ]
    _temp_files[app] = TempFiles(app.folders, app.jobs, app.events, app.settings.folders)


@hookimpl(trylast=True)
async def comfyk_serve(app: App) -> None:
    """A server alone looks after the folder: `comfyk run` knows nothing of the server's jobs."""
    if app in _temp_files:
        _temp_files[app].start()


@hookimpl(trylast=True)
async def comfyk_shutdown(app: App) -> None:
    if (temp_files := _temp_files.pop(app, None)) is not None:
        await temp_files.stop()
    app.events.deliver()  # what happened until now is still logged
    for end in _end_log.pop(app, []):
        end()


@hookimpl(trylast=True)
def comfyk_doctor(app: App) -> Iterable[Finding]:
    from comfyk.diagnosis import diagnose

    return diagnose(app)
