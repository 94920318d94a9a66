"""Background work: what a server does beside its jobs, such as a download or an installation.

`app.tasks.start(...)` runs an async function that can be watched, cancelled and looked up later:

    async def fetch(task: Task) -> dict[str, int]:
        for number, url in enumerate(urls):
            task.report(number, len(urls), url)
            await download(url)
        return {"files": len(urls)}

    task = app.tasks.start("download", fetch, title="Two models", key=urls[0])

What becomes of a task is kept in one small file for each, so that it can still be looked up after a crash.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import json
import logging
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

from comfyk.atomic import write_file
from comfyk.event_bus import EventBus
from comfyk.events import Event, now_ms
from comfyk.foreign_code import describe, is_ours
from comfyk.wire import dumps_anything, loads

__all__ = ["Task", "TaskChanged", "TaskStatus", "Tasks", "Work"]

log = logging.getLogger(__name__)

FOLDER = "comfyk/tasks"
"""In the user folder: the records."""

SERVER_STOPPED = "the server stopped"
"""The error of a task that was under way when the server ended, in good order or not."""

_KEEP = 200
_TELL_EVERY_S = 0.1
_STOP_TIMEOUT_S = 10.0


class TaskStatus(StrEnum):
    CREATED = "created"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_end(self) -> bool:
        return self in (TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED)


Work = Callable[["Task"], Awaitable[Any]]
"""What a task does: an async function. What it returns is the task's result, and has to be JSON."""


@dataclass(slots=True, kw_only=True)
class TaskChanged(Event):
    """A task began, came further (about ten times a second at most) or ended; `task` is its record as it was then."""

    type: ClassVar[str] = "task"
    task: dict[str, Any]
    user: str = "default"
    """Whose task it is."""

    def data(self) -> dict[str, Any]:
        return self.task


@dataclass(slots=True, kw_only=True, eq=False)
class Task:
    """One piece of background work. Times are milliseconds since the epoch."""

    id: str
    """A UUID."""
    name: str
    """What kind of work it is, such as `download`."""
    title: str = ""
    """What it works on, for people."""
    key: str | None = None
    """While the task has not ended, no other of this name, user and key is started."""
    user: str = "default"
    client_id: str | None = None
    """The client that is told of it; None: all are."""
    payload: dict[str, Any] = field(default_factory=dict)
    """What was asked for; kept for whoever looks the task up, and not in events."""
    status: TaskStatus = TaskStatus.CREATED
    created_at: int = field(default_factory=now_ms)
    updated_at: int = field(default_factory=now_ms)
    started_at: int | None = None
    ended_at: int | None = None
    value: float = 0
    """How far it is, of `total`."""
    total: float = 0
    """0: it is not known how much there is to do."""
    message: str = ""
    """What it does right now."""
    result: Any = None
    """What the work returned."""
    error: str = ""
    """Why it failed."""

    _tell: Callable[[Task], None] | None = field(default=None, repr=False)
    _runs: asyncio.Task[None] | None = field(default=None, repr=False)
    """Sees to the work, and is never cancelled itself."""
    _works: asyncio.Future[Any] | None = field(default=None, repr=False)
    _ended: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    _told: float = 0.0
    _tells_later: bool = False
    _cancelled: bool = False

    def record(self) -> dict[str, Any]:
        """All of it as JSON. Text that is not Unicode (the name of a file, perhaps) gets question marks."""
        values = {name: getattr(self, name) for name in _RECORDED}
        return {name: _unicode(value) if isinstance(value, str) else value for name, value in values.items()}

    def report(self, value: float, total: float = 0, message: str = "") -> None:
        """Say how far it is: `value` of `total`, and what it does. From any thread, as often as you like."""
        self.value, self.total = float(value), float(total)
        self.message, self.updated_at = str(message), now_ms()
        if self._tell is not None:
            self._tell(self)

    async def wait(self) -> Task:
        """Return when the task has ended, in whatever way: see `status`, `result` and `error`."""
        await self._ended.wait()
        return self


_RECORDED = tuple(name for name in Task.__dataclass_fields__ if not name.startswith("_"))


def _unicode(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


class Tasks:
    """The tasks of an app: those under way, and the latest that have ended. To be used on the app's event loop."""

    def __init__(self, folder: Path, events: EventBus, *, keep: int = _KEEP) -> None:
        """`folder` holds the records, of which the `keep` newest that have ended are kept."""
        self._folder = folder
        self._events = events
        self._keep = keep
        self._tasks: dict[str, Task] = {}
        """In the order in which they were created."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False
        self._disk = threading.Lock()

    # --- for plugins ----------------------------------------------------------------------------------------

    def start(
        self,
        name: str,
        work: Work,
        *,
        title: str = "",
        key: str | None = None,
        user: str = "default",
        client_id: str | None = None,
        payload: Mapping[str, Any] | None = None,
    ) -> Task:
        """Begin some work, and return at once.

        With a `key`: the task of this name, user and key that has not ended, if there is one; `work` is then not
        called. What `work` raises ends the task as failed, and is logged. Raises RuntimeError outside of the app's
        event loop, and when the server stops; TypeError when the payload is not JSON, or a name is not a text.
        """
        for what, text in {
            "name": name,
            "title": title,
            "key": key,
            "user": user,
            "client": client_id,
        }.items():
            if text is not None and not isinstance(text, str):
                raise TypeError(f"the {what} of the task {name!r} is {text!r}: give a text")
        if self._stopping:
            raise RuntimeError(f"the task {name!r} is not started: the server stops")
        if self._loop is None or asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(
                f"the task {name!r} is not started: start tasks in the event loop of a running app"
            )
        if key is not None:
            for task in self._tasks.values():
                if (task.name, task.user, task.key) == (name, user, key) and not task.status.is_end:
                    return task
        json.dumps(given := dict(payload or {}))  # TypeError now instead of later
        given = loads(dumps_anything(given))  # a copy
        task = Task(
            id=str(uuid.uuid4()),
            name=name,
            title=title,
            key=key,
            user=user,
            client_id=client_id,
            payload=given,
        )
        task._tell = self._report
        self._tasks[task.id] = task
        task._runs = asyncio.create_task(self._run(task, work), name=f"comfyk-task-{name}")
        return task

    def get(self, task_id: str) -> Task | None:
        return self._tasks.get(task_id)

    def cancel(self, task_id: str) -> bool:
        """Ask a task to end; `wait` for it to have ended. False: it has already. Raises KeyError for an unknown one."""
        task = self._tasks[task_id]
        if task.status.is_end or task._runs is None:
            return False
        task._cancelled = True
        if task._works is not None:
            task._works.cancel()
        return True

    def list(
        self,
        *,
        name: str | None = None,
        status: Collection[str] | None = None,
        key: str | None = None,
        user: str | None = None,
        created_after: int | None = None,
        created_before: int | None = None,
        newest_first: bool = True,
        offset: int = 0,
        limit: int | None = None,
    ) -> tuple[builtins.list[Task], int]:
        """A page of the tasks that fit all that is given, and how many fit. The range is without its ends."""
        found = [
            task
            for task in self._tasks.values()
            if (name is None or task.name == name)
            and (status is None or task.status in status)
            and (key is None or task.key == key)
            and (user is None or task.user == user)
            and (created_after is None or task.created_at > created_after)
            and (created_before is None or task.created_at < created_before)
        ]
        if newest_first:
            found.reverse()
        return found[offset:][:limit], len(found)

    # --- for the app ----------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Read what was kept, and take up work. What had not ended has failed: the server that ran it is gone."""
        self._loop = asyncio.get_running_loop()
        if self._folder.is_dir():
            for task in await asyncio.to_thread(self._load):
                self._tasks[task.id] = task
            await self._forget()

    async def stop(self) -> None:
        """Cancel all that is under way, wait for it a while, and record it as failed. Nothing is started any more."""
        self._stopping = True
        running = {task._runs: task for task in self._tasks.values() if task._runs is not None}
        for task in running.values():
            if task._works is not None:
                task._works.cancel()
        if running:
            await asyncio.wait(running, timeout=_STOP_TIMEOUT_S)
        for task in running.values():
            if not task.status.is_end:
                log.error(
                    "the task %s (%s) does not end; the server stops without it",
                    task.name,
                    task.title or task.id,
                )
                await self._end(task, TaskStatus.FAILED, error=SERVER_STOPPED)

    # --- running --------------------------------------------------------------------------------------------

    async def _run(self, task: Task, work: Work) -> None:
        try:
            task.status, task.started_at = TaskStatus.RUNNING, now_ms()
            task.updated_at = task.started_at
            await asyncio.to_thread(self._save, task)
            self._emit(task)
            if task._cancelled or self._stopping:
                raise asyncio.CancelledError
            task._works = asyncio.ensure_future(_work(task, work))
            result = await task._works
            json.dumps(result, allow_nan=False)
            result = loads(dumps_anything(result))
        except asyncio.CancelledError:
            if task._cancelled:
                await self._end(task, TaskStatus.CANCELLED)
            else:
                why = SERVER_STOPPED if self._stopping else "what it waited for was cancelled"
                await self._end(task, TaskStatus.FAILED, error=why)
        except Exception as error:
            log.exception("the task %s (%s) failed", task.name, task.title or task.id)
            await self._end(task, TaskStatus.FAILED, error=describe(error))
        else:
            await self._end(task, TaskStatus.COMPLETED, result=result)

    async def _end(self, task: Task, status: TaskStatus, *, result: Any = None, error: str = "") -> None:
        """Record how a task ended, then tell."""
        if task.status.is_end:  # it was given up before
            return
        task.status, task.result, task.error = status, result, error
        task.ended_at = task.updated_at = now_ms()
        try:
            await asyncio.to_thread(self._save, task)
            await self._forget()
        finally:
            task._tell = task._runs = task._works = None
            task._ended.set()
            self._emit(task)

    # --- telling --------------------------------------------------------------------------------------------

    def _emit(self, task: Task) -> None:
        task._told = time.monotonic()
        record = task.record()
        del record["payload"]
        self._events.emit(TaskChanged(client_id=task.client_id, user=task.user, task=record))

    def _report(self, task: Task) -> None:
        """Tell of progress, now or in a moment; from any thread."""
        if task._tells_later or self._loop is None:
            return
        wait = task._told + _TELL_EVERY_S - time.monotonic()
        if wait <= 0:
            self._emit(task)
            return
        task._tells_later = True
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
            self._loop.call_soon_threadsafe(self._loop.call_later, wait, self._report_late, task)

    def _report_late(self, task: Task) -> None:
        task._tells_later = False
        if not task.status.is_end:
            self._emit(task)

    # --- files ----------------------------------------------------------------------------------------------

    def _file(self, task: Task) -> Path:
        return self._folder / f"{task.id}.json"

    def _save(self, task: Task) -> None:
        """Write a task as it is now. A failure is logged: the task itself goes on."""
        with self._disk:  # of two threads that write one task the later one writes the later state
            try:
                write_file(self._file(task), json.dumps(task.record(), indent=1))
            except OSError as error:
                log.error("the task %s cannot be recorded in %s: %s", task.name, self._folder, error)

    def _load(self) -> builtins.list[Task]:
        tasks: builtins.list[Task] = []
        for file in self._folder.glob("*.json"):
            try:
                task = _read(file)
            except (OSError, ValueError, TypeError) as error:
                log.warning("%s is no record of a task, delete it: %s", file, error)
                continue
            if not task.status.is_end:
                task.status, task.error = TaskStatus.FAILED, SERVER_STOPPED
                task.ended_at = task.updated_at = now_ms()
                self._save(task)
            task._ended.set()
            tasks.append(task)
        return sorted(tasks, key=lambda task: task.created_at)

    async def _forget(self) -> None:
        """Drop the oldest of those that have ended."""
        ended = [task for task in self._tasks.values() if task.status.is_end]
        gone = ended[: max(0, len(ended) - self._keep)]
        for task in gone:
            del self._tasks[task.id]
        if gone:
            await asyncio.to_thread(self._delete, gone)

    def _delete(self, tasks: builtins.list[Task]) -> None:
        for task in tasks:
            with contextlib.suppress(OSError):
                self._file(task).unlink()


async def _work(task: Task, work: Work) -> Any:
    try:
        return await work(task)
    except BaseException as error:  # out of an asyncio task some would end the server
        if isinstance(error, (Exception, asyncio.CancelledError)) or is_ours(error):
            raise
        said = (
            f"it called sys.exit({error.code!r})"
            if isinstance(error, SystemExit)
            else f"it raised {describe(error)}"
        )
        raise RuntimeError(said) from error


def _read(file: Path) -> Task:
    """Raises OSError, ValueError and TypeError when it is no record."""
    values = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(values, dict) or values.get("id") != file.stem:
        raise ValueError("it is not about the task that its name says")
    if not isinstance(values.get("created_at"), int):
        raise ValueError("it does not say when the task was created")
    known = {name: value for name, value in values.items() if name in _RECORDED}
    return Task(**{**known, "status": TaskStatus(values.get("status"))})
