"""What the queue asks of an executor. The kernel's own is in `comfyk.execution`; plugins bring others
(`comfyk_create_executor`), which may run many jobs at once, in other processes or on other machines.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, runtime_checkable

from comfyk.events import Event
from comfyk.jobs.model import Job, Outcome


class ExecutorDied(Exception):
    """What ran the job is gone: a process that was killed, a machine that does not answer; the message says which.

    The job may have been the reason: it runs again, as often as `jobs.max_attempts` allows.
    """


@runtime_checkable
class Executor(Protocol):
    """Runs jobs. All methods are called on the app's event loop, and must not block it."""

    @property
    def capacity(self) -> int:
        """How many jobs may run at a time. It may change while running; `start` was given what to call then."""
        ...

    async def start(self, capacity_changed: Callable[[], None]) -> None:
        """Be ready to run jobs. `capacity_changed` may be called from any thread."""
        ...

    async def stop(self) -> None:
        """Let go of everything. Jobs were interrupted before; one that does not end is left behind."""
        ...

    def prepare(self, job: Job) -> Awaitable[Any] | None:
        """What to await before the job starts, None when it can start at once.

        While that is awaited the job can be cancelled, and no attempt has been counted.
        """
        ...

    async def run(self, job: Job, tell: Callable[[Event], None]) -> Outcome:
        """Run a job to its end, and report it: `tell` takes events (`comfyk.events`) from any thread, in order.

        The events that clients show are ExecutionStart, ExecutionCached, Executing, Progress, ProgressState, Preview
        and Executed, whose outputs the outcome has too. How it ended is told by the queue, once it is stored: see
        `Outcome`; `tell` raises ValueError for an event that says so, and for one of another job, and drops what comes
        after the end. A failure of a node is an outcome. Raises ExecutorDied when the job was not brought to an end.
        """
        ...

    def interrupt(self, job_id: str) -> None:
        """Ask a job that runs to end soon, as cancelled. An id that does not run is no error."""
        ...

    async def free(self, *, unload_models: bool, free_memory: bool) -> dict[str, Any]:
        """Free what can be made again; called between jobs. Returns what was freed."""
        ...
