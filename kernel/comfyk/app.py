"""The app: everything that a server or a command line run is made of, started and stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from contextlib import AbstractContextManager, AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from comfyk.context import active_app, set_app
from comfyk.database import Database, DatabaseError
from comfyk.event_bus import EventBus
from comfyk.events import Event, SettingsChanged
from comfyk.foreign_code import is_ours
from comfyk.jobs.executor import Executor
from comfyk.jobs.queue import JobQueue
from comfyk.nodes.object_info import ObjectInfo
from comfyk.nodes.registry import NodeRegistry
from comfyk.packs import Packs
from comfyk.tasks import FOLDER as TASKS_FOLDER
from comfyk.tasks import Tasks

if TYPE_CHECKING:
    from comfyk.jobs.store import JobStore
    from comfyk.plugins import Plugins
    from comfyk.settings import Settings

log = logging.getLogger(__name__)

_PACKS_WAIT_S = 1.0
"""How long the packs wait for the server to listen, so that the two do not take turns at the processor."""
_EXECUTOR_STOPS_S = 15.0
"""How long an executor may take to stop."""


class App:
    """One comfyk: `async with App(settings, plugins):` has a running queue and all nodes.

    Attributes of interest to a plugin: `settings`, `plugins`, `hook` (call hooks), `events`, `folders`, `nodes`,
    `object_info`, `packs`, `tasks`, `web_directories`, `executor`, `jobs` and `restarting`.
    """

    def __init__(self, settings: Settings, plugins: Plugins, *, store: JobStore | None = None) -> None:
        """`store` is used for the jobs instead of the one that a plugin opens."""
        self.settings = settings
        self.plugins = plugins
        self.hook = plugins.bound_to(self)
        self.events = EventBus()
        self.folders = settings.make_folders()
        self.folders.resolve_with(lambda name: self.hook.comfyk_resolve_file(name=name))
        self.nodes = NodeRegistry()
        self.object_info = ObjectInfo(self.nodes)
        self.web_directories: dict[str, Path] = {}
        self.packs = Packs(
            self.folders,
            self.nodes,
            self.web_directories,
            self.events,
            self.hook,
            settings.nodes,
            self.active,
        )
        self.tasks = Tasks(self.folders.user / TASKS_FOLDER, self.events)
        self.executor: Executor
        self.jobs: JobQueue
        self.restarting = False
        """Whether the server starts again once it has stopped."""
        self._stop_asked = asyncio.Event()
        self._asked_to_stop = False
        self._registered = False
        self._packs_wanted = asyncio.Event()
        self._packs_loaded = asyncio.Event()
        self._loading: asyncio.Future[None] | None = None
        self._started = AsyncExitStack()
        self._databases = AsyncExitStack()
        self._store = store

    def active(self) -> AbstractContextManager[App]:
        """Within this context `comfyk.current_app()` is this app."""
        return active_app(self)

    def enter(self) -> None:
        """Make this the app that `comfyk.current_app()` finds in the calling thread, from now on."""
        set_app(self)

    def register(self) -> None:
        """Let the plugins register folders, nodes and web directories, and load the packs. Runs once.

        For an app that never starts; one that starts does it by itself, and loads the packs in threads.
        """
        if self._registered:
            return
        self._register_own()
        self.packs.load()
        self._register_the_rest()

    def _register_own(self) -> None:
        """Let the plugins register what is theirs."""
        self._registered = True
        with self.active():
            self.hook.comfyk_register_folders(folders=self.folders)
            self.hook.comfyk_register_nodes()
            self.hook.comfyk_before_packs()

    def _register_the_rest(self) -> None:
        """Let them register what comes after the packs."""
        with self.active():
            self.hook.comfyk_register_node_replacements()
            for directories in self.hook.comfyk_register_web_directories():
                self.web_directories.update(directories)
        self._packs_loaded.set()

    async def _load_packs(self) -> None:
        """Load the packs, once the server listens or somebody waits for them."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PACKS_WAIT_S):
                await self._packs_wanted.wait()
        try:
            await self.packs.load_all()
            self._register_the_rest()
        except BaseException as error:
            if is_ours(error):
                raise
            log.exception("the packs could not be loaded")
        finally:
            self._packs_loaded.set()

    async def packs_loaded(self) -> None:
        """Return when the packs have been loaded, as far as they come to an end. Then all nodes are known."""
        if not self._packs_loaded.is_set():
            self._packs_wanted.set()
            await self._packs_loaded.wait()

    async def start(self) -> None:
        """Open the store, start the executor and the queue. Raises StoreError and the like; then nothing runs.

        The packs are loaded meanwhile: see `packs_loaded`. `async with app:` waits for them.
        """
        set_app(self)
        self.events.attach(asyncio.get_running_loop())
        self.folders.create()
        async with AsyncExitStack() as started:
            started.callback(self.settings.listen(self._tell_change))
            if not self._registered:
                self._register_own()
            started.push_async_callback(self._databases.aclose)
            store = self.hook.comfyk_open_job_store() if self._store is None else self._store
            started.push_async_callback(store.close)
            self.executor = self.hook.comfyk_create_executor()
            started.push_async_callback(self._stop_executor)
            self.jobs = JobQueue(
                store,
                self.executor,
                self.nodes,
                self.events,
                self.hook,
                self.settings.jobs.max_attempts,
                self.settings.jobs.max_nodes,
                self.packs_loaded,
                self.settings.jobs.max_waiting_mb * 1_000_000,
                self.folders,
            )
            if self.hook.implements("comfyk_event"):
                started.callback(self.events.subscribe(self._tell_plugins))
            started.push_async_callback(self.hook.comfyk_shutdown)
            started.callback(self.packs.run_alone)  # once no job runs any more
            started.push_async_callback(self.jobs.stop)
            # Stopped first: tasks wait for jobs, and use what plugins started.
            started.push_async_callback(self.tasks.stop)
            await self.tasks.open()
            await self.hook.comfyk_startup()
            if not self._packs_loaded.is_set():
                # Before the queue starts: what was left in it may need nodes of packs.
                self._loading = asyncio.ensure_future(self.jobs.between_jobs(self._load_packs))
                await asyncio.sleep(0)
            await self.jobs.start()
            self.packs.run_between(self.jobs.between_jobs, self._forget_results)
            self._started = started.pop_all()

    async def _stop_executor(self) -> None:
        """An executor that does not stop, or fails at it, keeps nothing else from stopping."""
        try:
            async with asyncio.timeout(_EXECUTOR_STOPS_S):
                await self.executor.stop()
        except TimeoutError:
            log.error("the executor has not stopped in %g s; it is left behind", _EXECUTOR_STOPS_S)
        except BaseException as error:
            if is_ours(error):
                raise
            log.error("the executor failed to stop", exc_info=error)

    async def _forget_results(self) -> None:
        await self.executor.free(unload_models=False, free_memory=True)

    def _tell_change(self, key: str) -> None:
        self.events.emit(SettingsChanged(key=key))

    def _tell_plugins(self, event: Event) -> None:
        self.hook.comfyk_event(event=event)

    async def serve(self) -> list[str]:
        """Let clients in. Returns the addresses that they can use; raises what the listening plugin raises."""
        addresses = [address for addresses in await self.hook.comfyk_serve() for address in addresses]
        self._packs_wanted.set()
        return addresses

    async def open_database(self, name: str, migrations: Path | None = None) -> Database:
        """A database of a plugin's own, opened by another plugin such as storage; closed when the app stops.

        `name` is a plugin's name with `_` for `-`, or begins with that; `migrations` is a folder of alembic revisions,
        which are applied.
        Raises DatabaseError.
        """
        with self.active():
            opening = asyncio.ensure_future(
                asyncio.to_thread(self.hook.comfyk_open_database, name=name, migrations=migrations)
            )
        try:
            database: Database | None = await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The thread goes on: what it opens nobody else would close.
            self._databases.push_async_callback(asyncio.wait, [asyncio.create_task(_close_unwanted(opening))])
            raise
        if database is None:
            raise DatabaseError(
                f"The database {name!r} cannot be opened: no plugin offers databases. Install comfyk-storage, or "
                "enable it with `comfyk plugin enable storage`."
            )
        self._databases.push_async_callback(asyncio.to_thread, database.close)
        return database

    def request_stop(self, restart: bool = False, reason: str = "") -> None:
        """Have the server stop soon, in good order, and with `restart` start again at once; from any thread.

        Running jobs are interrupted and run again after the next start. On POSIX a restart keeps the process id.
        Of a stop and a restart the stop counts. `reason` is for the log.
        """
        log.info("%s%s", "restarting" if restart else "stopping", f": {reason}" if reason else "")
        self.restarting = restart and (self.restarting or not self._asked_to_stop)
        self._asked_to_stop = True
        self.events.call(self._stop_asked.set)

    async def wait_for_stop(self) -> None:
        """Return when `request_stop` was called."""
        await self._stop_asked.wait()

    async def stop(self) -> None:
        """Stop in the reverse order. Running jobs are interrupted and stay in the queue for the next start."""
        await self._started.aclose()
        self.events.deliver()

    async def __aenter__(self) -> App:
        await self.start()
        try:
            await self.packs_loaded()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


async def _close_unwanted(opening: asyncio.Future[Database | None]) -> None:
    """Close a database as soon as it is open."""
    try:
        database = await opening
        if database is not None:
            await asyncio.to_thread(database.close)
    except Exception:
        log.warning("a database that nobody waits for any more could not be opened and closed", exc_info=True)
