"""The temp folder is kept small: a preview lasts as long as a job in the history shows it, within bounds.

Which job shows which file is read from the history at the start, and heard from then on. Looked after are

- what only jobs showed that have left the history, whether they were deleted or trimmed: it is removed;
- what no job shows: left behind by a crash, or brought in. It goes once nobody has touched it for an hour, unless a job
  that waits or runs names it;
- all of it: what is older or more than the settings allow goes, the oldest first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfyk.events import Event, Executed, HistoryDeleted, JobEnded
from comfyk.folders import PathOutsideError, entries_of, resolve_inside
from comfyk.jobs.files import remove, shown_files
from comfyk.jobs.store import StoreError
from comfyk.wire import loads_anything

if TYPE_CHECKING:
    from comfyk.event_bus import EventBus
    from comfyk.folders import Folders
    from comfyk.jobs.queue import JobQueue
    from comfyk.kernel_settings import FolderSettings

log = logging.getLogger(__name__)

NOBODYS_S = 3600.0
"""How long what no job shows is left alone."""
_IN_USE_S = 600.0
"""What was written so lately may be in use by a job that runs."""
_EACH_S = 3600.0
"""How often it is looked after when nothing happens."""
_PAUSE_S = 1.0
"""At least between two rounds, and many times what a round takes."""
_WITH_JOBS = "with their jobs"
_IN_PROMPT = re.compile(rb'"((?:[^"\\]|\\.)+?) ?\[temp\]"')


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    size: int
    touched: float
    """Seconds since the epoch."""


class TempFiles:
    """Looks after a server's temp folder, in a task of its own."""

    def __init__(self, folders: Folders, jobs: JobQueue, events: EventBus, settings: FolderSettings) -> None:
        self._folders = folders
        self._folder = folders.temp
        self._jobs = jobs
        self._max_bytes = settings.temp_max_mb * 1_000_000
        self._max_age_s = settings.temp_max_age_days * 86_400
        self._of_jobs: dict[str, list[Path]] = {}
        """What jobs in the history show, in the order in which they ended."""
        self._counts: Counter[Path] = Counter()
        """How many of them show a file."""
        self._outputs: dict[str, dict[str, Any]] = {}
        """Of jobs that run: node id -> what it showed."""
        self._ended: list[tuple[str, dict[str, Any]]] = []
        """The same of those that have ended since the last round."""
        self._deleted: dict[str, None] = {}
        """Jobs that may have left the history since then."""
        self._wake = asyncio.Event()
        self._wake.set()
        self._task: asyncio.Task[None] | None = None
        self._end = events.subscribe(self._hear, Executed, JobEnded, HistoryDeleted)

    def start(self) -> None:
        self._task = asyncio.create_task(self._work(), name="comfyk-temp-files")

    async def stop(self) -> None:
        self._end()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    # --- which job shows what -------------------------------------------------------------------------------------

    def _hear(self, event: Event) -> None:
        if isinstance(event, Executed):
            if event.output:
                self._outputs.setdefault(event.job_id, {})[event.node] = event.output
        elif isinstance(event, JobEnded):
            outputs = self._outputs.pop(event.job_id, None)
            if outputs is not None and self._task is not None:  # before, the history is not read yet
                self._ended.append((event.job_id, outputs))
            self._wake.set()
        elif isinstance(event, HistoryDeleted):
            every = (*self._of_jobs, *(job_id for job_id, _ in self._ended))
            self._deleted |= dict.fromkeys(every if event.ids is None else event.ids)
            self._wake.set()

    def _add(self, job_id: str, files: Iterable[Path]) -> None:
        if job_id not in self._of_jobs and (shown := list(dict.fromkeys(files))):
            self._of_jobs[job_id] = shown
            self._counts.update(shown)

    def _drop(self, job_id: str) -> list[Path]:
        """The files that nobody shows any more."""
        gone: list[Path] = []
        for path in self._of_jobs.pop(job_id):
            self._counts[path] -= 1
            if self._counts[path] <= 0:
                del self._counts[path]
                gone.append(path)
        return gone

    async def _take_in(self) -> None:
        """What jobs show that have ended here."""
        ended, self._ended = self._ended, []
        for job_id, outputs in ended:
            self._add(job_id, await asyncio.to_thread(self._shown, outputs))

    def _shown(self, outputs: Any) -> list[Path]:
        return list(shown_files(outputs, self._folders, ("temp",)))

    async def _read_history(self) -> None:
        """Learn what jobs show that ended before this server heard of it, or on another one."""
        async for part in self._jobs.store.history_parts():
            found = await asyncio.to_thread(self._shown_by, part)
            for job_id, files in found:
                self._add(job_id, files)

    def _shown_by(self, part: Iterable[tuple[str, bytes]]) -> list[tuple[str, list[Path]]]:
        return [
            (job_id, self._shown(loads_anything(entry).get("outputs")))
            for job_id, entry in part
            if job_id not in self._of_jobs and b'"temp"' in entry
        ]

    async def _let_go(self) -> list[Path]:
        """The files that only jobs showed which have left the history.

        The store drops its oldest jobs without a word, so those are looked for, from the oldest on.
        """
        gone: list[Path] = []
        for job_id in [job_id for job_id in self._deleted if job_id in self._of_jobs]:
            if await self._jobs.store.history_entry(job_id) is None:
                gone += self._drop(job_id)
        self._deleted.clear()
        for job_id in list(self._of_jobs):
            if await self._jobs.store.history_entry(job_id) is not None:
                break
            gone += self._drop(job_id)
        return gone

    # --- rounds -----------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        known = False
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EACH_S):
                    await self._wake.wait()
            self._wake.clear()
            began = time.monotonic()
            try:
                if not known and await asyncio.to_thread(entries_of, self._folder):
                    await self._read_history()
                known = True
                await self._round()
            except StoreError as error:
                log.warning("the temp folder is not looked after for now: %s", error)
            except Exception:
                log.exception("the temp folder could not be looked after")
            await asyncio.sleep(max(_PAUSE_S, 20 * (time.monotonic() - began)))

    async def _round(self) -> None:
        running = {job.id: job.created_at / 1000 for job in self._jobs.running}
        self._outputs = {job_id: found for job_id, found in self._outputs.items() if job_id in running}
        await self._take_in()
        gone = await self._let_go()
        files = await asyncio.to_thread(_files_below, self._folder)
        now = time.time()
        since = min(running.values(), default=now)
        files = await self._remove(files, _among(files, gone, since), _WITH_JOBS)
        if nobodys := self._nobodys(files, min(since, now - NOBODYS_S)):
            await self._read_history()
            elsewhere, named = await self._of_unfinished()
            nobodys = self._nobodys(nobodys, min(since, elsewhere, now - NOBODYS_S))
            nobodys = [file for file in nobodys if file.path not in named]
            files = await self._remove(files, nobodys, "that no job shows")
        old = [file for file in files if self._max_age_s and now - file.touched > self._max_age_s]
        files = await self._remove(files, old, "that are too old")
        await self._remove(files, self._too_many(files, now), "that are too many")

    def _nobodys(self, files: list[_File], before: float) -> list[_File]:
        return [file for file in files if file.path not in self._counts and file.touched < before]

    def _too_many(self, files: list[_File], now: float) -> list[_File]:
        excess = sum(file.size for file in files) - self._max_bytes
        if not self._max_bytes or excess <= 0:
            return []
        busy = bool(self._jobs.running)
        chosen: list[_File] = []
        for file in sorted(files, key=lambda file: file.touched):
            if excess <= 0 or (busy and file.touched > now - _IN_USE_S):
                break
            chosen.append(file)
            excess -= file.size
        return chosen

    async def _remove(self, files: list[_File], unwanted: list[_File], why: str) -> list[_File]:
        """What is left of the files."""
        if not unwanted:
            return files
        removed = await asyncio.to_thread(remove, [file.path for file in unwanted])
        size = sum(file.size for file in unwanted)
        level = logging.DEBUG if why == _WITH_JOBS else logging.INFO
        log.log(level, "temp: %d files (%.1f MB) removed %s", removed, size / 1e6, why)
        leaving = set(unwanted)
        return [file for file in files if file not in leaving]

    async def _of_unfinished(self) -> tuple[float, set[Path]]:
        """Since when jobs may have written that run, here or on another server; and what is read by those and those
        that wait.
        """
        running, pending = await self._jobs.listing()
        since = min((job.created_at / 1000 for job in running), default=time.time())
        found: set[Path] = set()
        async for part in self._jobs.bodies([*running, *pending]):
            for _, body in part:
                for name in _IN_PROMPT.findall(body):
                    with contextlib.suppress(PathOutsideError, ValueError, OSError):
                        found.add(resolve_inside(self._folder, str(loads_anything(b'"' + name + b'"'))))
        return since, found


def _among(files: list[_File], paths: Iterable[Path], before: float) -> list[_File]:
    """Those of the files that are at these paths, but for what was written since."""
    wanted = set(paths)
    return [file for file in files if file.path in wanted and file.touched < before]


def _files_below(folder: Path) -> list[_File]:
    """Files, without following links; folders that are empty and untouched for long go."""
    found: list[_File] = []
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        entries = entries_of(here)
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    found.append(_File(Path(entry.path), status.st_size, status.st_mtime))
        if not entries and here != folder:
            with contextlib.suppress(OSError):
                if here.stat().st_mtime < time.time() - NOBODYS_S:
                    os.rmdir(here)
    return found
