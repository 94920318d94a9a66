"""Node packs: folders and `.py` files in `custom_nodes` that add nodes and scripts for the web UI.

Which there are, in what state each is, and what a failing one leaves behind: nothing. How one is loaded is a hook's
business, `comfyk_load_pack`; what the kernel itself loads is in `comfyk.pack_module`. Packs are loaded in threads, so
that the server answers meanwhile, and while no job runs, at the start as later on. One that does not come to an end is
left to itself: the others go on without it, and it counts once it has loaded.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from comfyk.event_bus import EventBus
from comfyk.events import Event
from comfyk.folders import Folders, is_file
from comfyk.foreign_code import ForeignThreads, is_ours, watch
from comfyk.hooks import BoundHooks
from comfyk.kernel_settings import NodeSettings
from comfyk.nodes.registry import NodeRegistry
from comfyk.pack_failure import reason_of
from comfyk.pack_info import PackInfo, PackState, pack_as_dict, pack_name, pack_source
from comfyk.pack_module import forget_modules, run_prestartup, traceback_of

__all__ = ["PackInfo", "PackState", "Packs", "PacksChanged", "pack_as_dict", "pack_name", "pack_source"]

log = logging.getLogger(__name__)

BetweenJobs = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]


@dataclass(slots=True, kw_only=True)
class PacksChanged(Event):
    """A pack was loaded, failed to, or was unloaded while the server runs. Not told to clients."""

    name: str
    state: PackState | None
    """None: it was unloaded."""


@dataclass(slots=True)
class _Pack:
    info: PackInfo
    web: dict[str, Path] = field(default_factory=dict)
    """What it put into the web directories."""
    paths: list[str] = field(default_factory=list)
    """What it added to `sys.path`."""
    prepared: bool = False
    """Its `prestartup_script.py` has run."""
    loads_late: bool = False
    """Its `prestartup_script.py` was left to itself: it loads when that has come to an end."""


class Packs:
    """The packs of an app, by name."""

    def __init__(
        self,
        folders: Folders,
        nodes: NodeRegistry,
        web_directories: dict[str, Path],
        events: EventBus,
        hook: BoundHooks,
        settings: NodeSettings,
        active: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        """`web_directories` is added to; `active` is the context in which a pack finds its app."""
        self._folders = folders
        self._nodes = nodes
        self._web_directories = web_directories
        self._events = events
        self._hook = hook
        self._settings = settings
        self._active = active
        self._packs: dict[str, _Pack] = {}
        self._between_jobs: BetweenJobs | None = None
        self._forget_results: Callable[[], Awaitable[Any]] | None = None
        self._changing = asyncio.Lock()
        self._threads = ForeignThreads()
        self._noting = threading.Lock()

    def infos(self) -> list[PackInfo]:
        """What became of each pack, in the order they were loaded."""
        return [pack.info for pack in list(self._packs.values())]

    def load(self) -> None:
        """Load every pack that the settings and the plugins allow. Never raises. It blocks."""
        packs = [pack for pack in self._find() if self._allowed(pack.info)]
        for pack in packs:
            run_prestartup(pack.info)
        for pack in packs:
            self._load(pack)

    async def load_all(self) -> None:
        """The same while the loop goes on. One pack after the other, as far as each comes to an end."""
        async with self._changing:
            packs = [pack for pack in self._find() if self._allowed(pack.info)]
            for pack in packs:
                if not await self._patiently(pack, partial(self._prepare, pack)):
                    self._leave(pack)
            for pack in packs:
                if not pack.loads_late:
                    await self._patiently(pack, partial(self._load, pack))

    def _prepare(self, pack: _Pack) -> None:
        run_prestartup(pack.info)
        with self._noting:
            late, pack.prepared = pack.loads_late, True
        if late:
            self._load(pack)

    def _leave(self, pack: _Pack) -> None:
        """Nobody waits any more for its `prestartup_script.py`."""
        with self._noting:
            pack.loads_late = not pack.prepared

    async def _patiently(self, pack: _Pack, work: Callable[[], None]) -> bool:
        """Have something done for a pack in a thread. Returns whether it was done in time; else it goes on alone."""
        info, patience = pack.info, self._settings.load_timeout
        doing = asyncio.ensure_future(self._threads.run(work))
        done, _ = await asyncio.wait([doing], timeout=patience)
        if done:
            if (error := doing.exception()) is not None:  # not of the pack's own making
                info.state, info.error = "failed", traceback_of(error)
                log.error("pack %s failed to load", info.name, exc_info=error)
            return True
        log.error(
            "pack %s has not loaded in %g s (nodes.load_timeout); the others go on", info.name, patience
        )
        doing.add_done_callback(lambda _: self._events.emit(PacksChanged(name=info.name, state=info.state)))
        return False

    def found(self) -> list[PackInfo]:
        """The packs that lie there, without loading any: those not left out have the state `loading`."""
        list(self._find())
        return self.infos()

    # --- while running ----------------------------------------------------------------------------------------

    def run_between(self, between_jobs: BetweenJobs, forget_results: Callable[[], Awaitable[Any]]) -> None:
        """From now on make changes between jobs, by the queue; `forget_results` empties the cache of results."""
        self._between_jobs, self._forget_results = between_jobs, forget_results

    def run_alone(self) -> None:
        """There are no jobs any more."""
        self._between_jobs = self._forget_results = None

    async def load_pack(self, path: Path) -> PackInfo:
        """Load one pack, anew if it was loaded before. Its `state` and `error` say what became of it.

        It waits for the running jobs to end, and no job starts meanwhile. Whether the settings allow the pack is not
        asked.
        """
        return await self._change(lambda: self._load_anew(path))

    async def unload(self, name: str) -> None:
        """Take a pack's nodes, scripts and modules away, between jobs. Raises KeyError when there is no such pack."""
        if name not in self._packs:
            raise KeyError(name)
        await self._change(lambda: self._unload(name))

    async def _change(self, change: Callable[[], Awaitable[Any]]) -> Any:
        async def alone() -> Any:
            async with self._changing:
                return await change()

        return await (alone() if self._between_jobs is None else self._between_jobs(alone))

    async def _load_anew(self, path: Path) -> PackInfo:
        name = pack_name(path)
        if name in self._packs:
            await self._take_away(name)
        pack = self._packs[name] = _Pack(PackInfo(name, path))
        await self._patiently(pack, partial(self._prepare_and_load, pack))
        self._events.emit(PacksChanged(name=name, state=pack.info.state))
        return pack.info

    def _prepare_and_load(self, pack: _Pack) -> None:
        if self._allowed(pack.info):
            run_prestartup(pack.info)
            self._load(pack)

    async def _unload(self, name: str) -> None:
        await self._take_away(name)
        self._events.emit(PacksChanged(name=name, state=None))

    async def _take_away(self, name: str) -> None:
        pack = self._packs.pop(name)  # KeyError: it went while this waited for its turn
        if pack.info.state != "loaded":
            return
        await self._patiently(pack, partial(self._take_back, pack, loaded=True))
        if self._forget_results is not None:
            # What its nodes returned is not what other nodes of these names would.
            try:
                await self._forget_results()
            except Exception:  # of whatever executor; the pack is gone all the same
                log.exception("results of the nodes of pack %s may be kept", name)

    # --- finding ----------------------------------------------------------------------------------------------

    def _find(self) -> Iterator[_Pack]:
        """The packs to load, by folder and name, then those of plugins. Those left out are noted as disabled."""
        settings = self._settings
        for path in self._paths():
            name = pack_name(path)
            if (known := self._packs.get(name)) is not None:
                if known.info.path != path:  # else a plugin has loaded it
                    log.warning("skipping %s: %s has the same name", path, known.info.path)
                continue
            pack = self._packs[name] = _Pack(PackInfo(name, path))
            listed = path.name in settings.whitelist or name in settings.whitelist
            if path.name.endswith(".disabled") or (settings.disable_custom and not listed):
                pack.info.state = "disabled"
                continue
            yield pack

    def _paths(self) -> Iterator[Path]:
        for folder in self._folders.paths("custom_nodes"):
            try:
                entries = sorted(folder.iterdir())
            except FileNotFoundError:
                continue
            except OSError as error:
                log.error("the packs in %s are left out, it cannot be read: %s", folder, error.strerror)
                continue
            for path in entries:
                if path.name.startswith(".") or path.name == "__pycache__":
                    continue
                if is_file(path) and path.suffix != ".py" and not path.name.endswith(".py.disabled"):
                    continue
                yield path
        for paths in self._hook.comfyk_supply_packs():
            yield from paths

    def _allowed(self, info: PackInfo) -> bool:
        with self._active():
            why_not = self._hook.comfyk_veto_pack(path=info.path)
        if why_not is None:
            return True
        info.state, info.error, info.reason = "disabled", why_not, " ".join(why_not.split())
        log.warning("pack %s is not loaded: %s", info.name, why_not)
        return False

    # --- loading ----------------------------------------------------------------------------------------------

    def _load(self, pack: _Pack) -> None:
        """Load a pack, or take back what its failing load has registered. Never raises."""
        info = pack.info
        path_before, web_before = set(sys.path), dict(self._web_directories)
        began = time.perf_counter()
        failure: BaseException | None = None
        try:
            with self._active(), watch("the import of the pack", info.name):
                self._hook.comfyk_load_pack(path=info.path, pack=info)
        except BaseException as error:
            if is_ours(error):
                raise
            failure = error
        info.seconds = time.perf_counter() - began
        pack.paths = [path for path in sys.path if path not in path_before]
        pack.web = {
            name: folder for name, folder in self._web_directories.items() if web_before.get(name) != folder
        }
        if failure is not None:
            self._take_back(pack, loaded=False)
            info.state, info.error, info.reason = "failed", traceback_of(failure), reason_of(failure)
            log.error("pack %s failed to load: %s\n%s", info.name, info.reason, info.error)
            return
        if self._packs.get(info.name) is not pack:  # it was taken away before it had loaded
            self._take_back(pack, loaded=True)
            return
        info.nodes = self._nodes.names(source=info.source)
        info.state = "loaded"
        log.info("pack %s: %d nodes in %.2f s", info.name, len(info.nodes), info.seconds)

    def _take_back(self, pack: _Pack, *, loaded: bool) -> None:
        info = pack.info
        self._nodes.remove_source(info.source)
        for name, folder in pack.web.items():
            if self._web_directories.get(name) == folder:
                del self._web_directories[name]
        info.nodes.clear()
        if loaded:
            with self._active():
                self._hook.comfyk_unload_pack(pack=info)
        sys.path[:] = [path for path in sys.path if path not in pack.paths]
        forget_modules(info.path)
