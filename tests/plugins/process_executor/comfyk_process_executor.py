"""Runs jobs in child processes, several at a time: a node that crashes takes one worker with it, never the server.

A worker is a process with an app of its own, whose kernel executor runs the job; what it tells comes back over a pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from comfyk import App, Plugins, hookimpl
from comfyk.events import Event
from comfyk.jobs import ExecutorDied, Job, MemoryJobStore, Outcome
from comfyk.settings import Section, load_settings
from pydantic import Field


class ProcessSettings(Section):
    """The section `[process_executor]` of comfyk.toml."""

    workers: int = Field(3, ge=1, description="How many jobs run at a time.")


@hookimpl
def comfyk_register_settings() -> dict[str, type[Section]]:
    return {"process_executor": ProcessSettings}


@hookimpl
def comfyk_create_executor(app: App) -> ProcessExecutor:
    return ProcessExecutor(app, app.settings.section("process_executor", ProcessSettings).workers)


class ProcessExecutor:
    """An executor with room for one job in each of its workers."""

    def __init__(self, app: App, workers: int) -> None:
        self.capacity = workers
        self._settings = app.settings.model_dump(mode="json")  # wherever they are from
        # Who listens to a worker takes a thread: not one of those that all of the server share.
        self._threads = ThreadPoolExecutor(workers + 1, "process-executor")
        self._disabled = [*app.settings.plugins.disabled, "process-executor", "http", "storage", "frontend"]
        self._idle: asyncio.Queue[Worker] = asyncio.Queue()
        self._workers: list[Worker] = []
        self._busy: dict[str, Worker] = {}

    async def start(self, capacity_changed: Callable[[], None]) -> None:
        for _ in range(self.capacity):
            self._add_worker()

    def _add_worker(self) -> None:
        worker = Worker(self._settings, self._disabled)
        self._workers.append(worker)
        self._idle.put_nowait(worker)

    async def stop(self) -> None:
        for worker in self._workers:
            worker.process.kill()
            await self._blocking(worker.process.join)
        self._threads.shutdown(wait=False)

    async def _blocking(self, function: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    def prepare(self, job: Job) -> None:
        return None

    async def run(self, job: Job, tell: Callable[[Event], None]) -> Outcome:
        worker = await self._idle.get()
        self._busy[job.id] = worker
        try:
            worker.pipe.send(("run", job))
            while True:
                kind, value = await self._blocking(worker.pipe.recv)
                if kind == "outcome":
                    return value
                tell(value)
        except (EOFError, OSError) as error:
            await self._blocking(worker.process.join)
            code = worker.process.exitcode
            raise ExecutorDied(f"The worker process {worker.process.pid} ended with code {code}.") from error
        finally:
            del self._busy[job.id]
            if worker.process.is_alive():
                self._idle.put_nowait(worker)
            else:
                self._workers.remove(worker)
                self._add_worker()

    def interrupt(self, job_id: str) -> None:
        if job_id in self._busy:
            with contextlib.suppress(OSError):  # it died: `run` is about to say so
                self._busy[job_id].pipe.send(("interrupt", job_id))

    async def free(self, *, unload_models: bool, free_memory: bool) -> dict[str, Any]:
        for worker in self._workers:
            worker.process.kill()  # nothing frees more; `run` is not under way
            await self._blocking(worker.process.join)
        count, self._workers, self._idle = len(self._workers), [], asyncio.Queue()
        for _ in range(self.capacity):
            self._add_worker()
        return {"workers": count}


class Worker:
    """One child process and the pipe to it."""

    def __init__(self, settings: dict[str, Any], disabled: list[str]) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=work, args=(theirs, settings, disabled), daemon=True)
        self.process.start()
        theirs.close()  # so that the end of the process is the end of the pipe


def work(pipe: Connection, settings: dict[str, Any], disabled: list[str]) -> None:
    """The child's whole life."""
    asyncio.run(_work(pipe, settings, disabled))


async def _work(pipe: Connection, settings: dict[str, Any], disabled: list[str]) -> None:
    plugins = Plugins.discover(disabled)
    sections = type(load_settings(plugins)).model_fields  # without those of plugins that are not here
    given = {f"{name}.{key}": value for name in sections for key, value in settings.get(name, {}).items()}
    app = App(load_settings(plugins, overrides=given), plugins, store=MemoryJobStore())
    threads = ThreadPoolExecutor(1, "from-server")
    async with app:
        jobs: set[asyncio.Task[None]] = set()

        async def run(job: Job) -> None:
            outcome = await app.executor.run(job, lambda event: pipe.send(("event", event)))
            pipe.send(("outcome", outcome))

        while True:
            try:
                kind, value = await asyncio.get_running_loop().run_in_executor(threads, pipe.recv)
            except EOFError:  # the server is gone
                return
            if kind == "run":
                task = asyncio.create_task(run(value))
                jobs.add(task)
                task.add_done_callback(jobs.discard)
            else:
                app.executor.interrupt(value)
