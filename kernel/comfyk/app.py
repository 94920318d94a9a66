"""The app: everything that a server or a command line run is made of, started and stopped in order."""

from __future__ import annotations

import asyncio
import inspect
import logging
from contextlib import AbstractContextManager, AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from comfyk.context import active_app, set_app
from comfyk.events import Event, EventBus
from comfyk.execution.executor import Executor
from comfyk.jobs.memory import MemoryJobStore
from comfyk.jobs.queue import JobQueue
from comfyk.nodes.object_info import ObjectInfo
from comfyk.nodes.registry import NodeRegistry
from comfyk.packs import Packs
from comfyk.plugins import Plugins

if TYPE_CHECKING:
    from comfyk.jobs.store import JobStore
    from comfyk.settings import Settings

log = logging.getLogger(__name__)


class App:
    """One comfyk: `async with App(settings, plugins):` has a running queue and all nodes.

    Attributes of interest to a plugin: `settings`, `plugins`, `hook` (call hooks), `events`, `folders`, `nodes`,
    `object_info`, `packs`, `web_directories`, `executor` and `jobs`.
    """

    def __init__(self, settings: Settings, plugins: Plugins, *, store: JobStore | None = None) -> None:
        """`store` is used for the jobs instead of the one that a plugin opens."""
        self.settings = settings
        self.plugins = plugins
        self.hook = plugins.hook
        self.events = EventBus()
        self.folders = settings.make_folders()
        self.nodes = NodeRegistry()
        self.object_info = ObjectInfo(self.nodes)
        self.packs = Packs(self)
        self.web_directories: dict[str, Path] = {}
        self.executor: Executor
        self.jobs: JobQueue
        self._registered = False
        self._started = AsyncExitStack()
        self._store = store

    def active(self) -> AbstractContextManager[App]:
        """Within this context `comfyk.current_app()` is this app."""
        return active_app(self)

    def register(self) -> None:
        """Let the plugins register folders, nodes and web directories, and load the packs. Runs once."""
        if self._registered:
            return
        self._registered = True
        with self.active():
            self.plugins.call("comfyk_register_folders", folders=self.folders)
            self.plugins.call("comfyk_register_nodes", app=self)
            self.packs.load()
            self.plugins.call("comfyk_register_node_replacements", app=self)
            for directories in self.plugins.call("comfyk_register_web_directories", app=self):
                self.web_directories.update(directories)

    async def start(self) -> None:
        """Open the store, start the executor and the queue. Raises StoreError and the like; then nothing runs."""
        set_app(self)
        self.events.attach(asyncio.get_running_loop())
        self.folders.create()
        self.register()
        await self.packs.load_async()
        async with AsyncExitStack() as started:
            store = self._store or self.hook.comfyk_open_job_store(app=self) or MemoryJobStore()
            started.push_async_callback(store.close)
            made = self.plugins.call("comfyk_create_executor", app=self)
            self.executor = made[0] if made else Executor(self)
            started.callback(self.executor.stop)
            self.jobs = JobQueue(self, store)
            if self.plugins.implements("comfyk_event"):
                started.callback(self.events.subscribe(self._tell_plugins))
            started.push_async_callback(self.plugins.call_async, "comfyk_shutdown", app=self, reverse=True)
            await self.plugins.call_async("comfyk_startup", app=self)
            self.executor.start()
            started.push_async_callback(self.jobs.stop)
            await self.jobs.start()
            self._started = started.pop_all()

    def _tell_plugins(self, event: Event) -> None:
        self.plugins.call("comfyk_event", app=self, event=event)

    async def serve(self) -> list[str]:
        """Let clients in. Returns the addresses that they can use; raises what the listening plugin raises."""
        addresses: list[str] = []
        begun = self.hook.comfyk_serve(app=self)
        try:
            for waiting in begun:
                addresses += (await waiting if inspect.isawaitable(waiting) else waiting) or []
        finally:
            for waiting in begun:  # those behind one that failed
                if inspect.iscoroutine(waiting):
                    waiting.close()
        return addresses

    async def stop(self) -> None:
        """Stop in the reverse order. A running job is interrupted and stays in the queue for the next start."""
        await self._started.aclose()
        self.events.deliver()

    async def __aenter__(self) -> App:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
