"""Where jobs are kept: in memory here in the kernel, durably by a plugin (`comfyk_open_job_store`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from comfyk.jobs.model import Job, JobStatus, Outcome, QueuedJob


class StoreError(Exception):
    """The store could not do it; the message says what happened, to which file, and what to do next."""


class DuplicateJobError(StoreError):
    """A job with this id is already stored."""

    @classmethod
    def of(cls, job_id: str) -> DuplicateJobError:
        return cls(f"There is a job with the id {job_id} already; choose another id.")


class LeaseLostError(StoreError):
    """Another server has taken the job over, because this one's lease ran out. What was to be stored is void."""


class UnknownJobError(StoreError):
    """The job is not in the queue: it was never added, was removed, or has ended. Trying again is of no use."""

    @classmethod
    def of(cls, job_id: str) -> UnknownJobError:
        return cls(f"Job {job_id} is not in the queue: it was removed or has ended.")


class UnreadableJobError(StoreError):
    """What is stored of the job cannot be read, and trying again is of no use."""

    def __init__(self, job: QueuedJob, why: str) -> None:
        super().__init__(f"Job {job.id} cannot be read from the store: {why}.")
        self.job = job


class QueueFullError(StoreError):
    """What the jobs that wait take up has reached its limit."""

    def __init__(self, size: int, limit: int) -> None:
        self.never = size > limit
        """Whether the job would be too large for an empty queue."""
        what = (
            f"The prompt takes {size / 1e6:,.1f} MB, more than all that wait may take together"
            if self.never
            else "The prompts that wait take up all the room there is for them"
        )
        todo = "raise the setting" if self.never else "wait until some have run, or raise the setting"
        super().__init__(f"{what} ({limit / 1e6:,.0f} MB); {todo} jobs.max_waiting_mb.")


@dataclass(slots=True)
class JobSummary:
    """A line of the jobs list; times in milliseconds since the epoch."""

    id: str
    status: JobStatus
    priority: float
    create_time: int
    execution_start_time: int | None = None
    execution_end_time: int | None = None
    execution_error: dict[str, Any] | None = None
    outputs_count: int | None = None
    previewable_outputs_count: int | None = None
    preview_output: dict[str, Any] | None = None
    workflow_id: str | None = None


@dataclass(slots=True)
class JobQuery:
    """Which jobs to list, and in which order."""

    statuses: Collection[JobStatus] | None = None
    workflow_id: str | None = None
    user: str | None = None
    sort_by: Literal["created_at", "execution_duration"] = "created_at"
    descending: bool = True
    limit: int | None = None
    offset: int = 0


@dataclass(slots=True)
class JobDetail:
    """One job whole. `outcome` is None while it has not ended."""

    summary: JobSummary
    job: Job
    outcome: Outcome | None = None


@runtime_checkable
class JobStore(Protocol):
    """What the queue asks of a store. Every method may be called from the app's event loop only.

    A method that changes something returns when the change is durable, and raises StoreError when it is not:
    then nothing of it was kept. One server at a time has the store open; see SharedJobStore.
    """

    async def close(self) -> None: ...

    async def unfinished(self) -> list[QueuedJob]:
        """Jobs that have not ended: those that were started before come first, else by number, then by age.

        A job that was running when the process ended is pending when the store is opened again. What the jobs run is
        not read: it may be more than there is memory.
        """
        ...

    async def read(self, job: QueuedJob) -> Job:
        """A job that has not ended, whole. Raises UnknownJobError, and UnreadableJobError when it is damaged."""
        ...

    async def bodies(self, ids: Collection[str]) -> Mapping[str, bytes]:
        """What jobs run that have not ended, as JSON: `[prompt, extra data, targets]`. Damaged ones are left out."""
        ...

    async def set_aside(self, job: QueuedJob, outcome: Outcome) -> None:
        """Put a job that cannot be read into the history, as one that failed.

        What there is of it stays where it is, for the owner of the store to look at.
        """
        ...

    async def add(self, job: Job, started_at: int | None = None) -> None:
        """Keep a new job: a pending one, or with `started_at` one that runs already.

        Raises DuplicateJobError when its id is taken (by a finished job too).
        """
        ...

    async def start(self, job: Job, started_at: int) -> None:
        """Mark it as running, for the `job.attempts`-th time: called right before its first node may run.

        Raises UnknownJobError.
        """
        ...

    async def requeue(self, job: Job) -> None:
        """Make a running job a pending one again, with the job's `attempts`. Raises UnknownJobError."""
        ...

    async def finish(self, job: Job, outcome: Outcome) -> None:
        """Put it into the history; its sensitive data is forgotten. The oldest beyond the limit are dropped.

        Raises UnknownJobError when it is not in the queue.
        """
        ...

    async def renumber(self, job: QueuedJob) -> None:
        """Keep the job's new `number`; nothing happens when it has left the queue."""
        ...

    async def remove(self, ids: Collection[str]) -> None:
        """Forget pending jobs; ids of others are ignored."""
        ...

    async def history(
        self, limit: int | None = None, offset: int | None = None, user: str | None = None
    ) -> Sequence[tuple[str, bytes]]:
        """Finished jobs, oldest first: (id, the JSON of its history entry, ready to send).

        `limit` without `offset` gives the newest; `offset` counts from the oldest.
        """
        ...

    def history_parts(
        self, limit: int | None = None, offset: int | None = None, user: str | None = None
    ) -> AsyncIterator[Sequence[tuple[str, bytes]]]:
        """The same in parts of about a megabyte (an entry is never cut), so that memory does not grow with the history.

        The jobs are those that had ended at the beginning; one that is deleted meanwhile is left out. There is always
        a first part, though it may be empty.
        """
        ...

    async def history_fitting(self, most: int, user: str | None = None) -> tuple[int, int]:
        """How many of the newest entries have at most `most` bytes together (the newest counts in any case), and how
        many there are."""
        ...

    async def history_entry(self, job_id: str, user: str | None = None) -> bytes | None:
        """The JSON of one entry, or None."""
        ...

    async def delete_history(self, ids: Collection[str], user: str | None = None) -> None: ...

    async def clear_history(self, user: str | None = None) -> None: ...

    async def list(self, query: JobQuery) -> tuple[list[JobSummary], int]:
        """One page of jobs in any state, and how many there are in all."""
        ...

    async def get(self, job_id: str, user: str | None = None) -> JobDetail | None: ...


@dataclass(frozen=True, slots=True)
class Renewal:
    """What a server learns when it renews its leases."""

    held: frozenset[str]
    """The jobs that are still its own."""
    to_cancel: frozenset[str]
    """Those of them that another server was asked to cancel."""


class Remaining(NamedTuple):
    """What a shared store holds of jobs that have not ended."""

    jobs: int
    waiting: int
    """How many of them wait."""
    size: int
    """Bytes of what those that wait run."""


@runtime_checkable
class SharedJobStore(JobStore, Protocol):
    """A store that several servers have open: each takes jobs with a lease, and runs what it took.

    A lease is this store's (the owner's, which has a name of its own) for `lease_s` seconds, by the clock of the
    database. When it runs out before it was renewed, another server may take the job. From then on `start`, `requeue`
    and `finish` raise LeaseLostError here. `add` with `started_at` takes the job at once.
    """

    lease_s: float

    async def take(self) -> Job | None:
        """Take the next job, one whose lease ran out before all that wait; None when there is none.

        No two servers get the same. `job.attempts` is what was counted before. It may be a job of this very server.
        Raises UnreadableJobError for one that is taken, but cannot be read.
        """
        ...

    async def renew(self, ids: Collection[str]) -> Renewal:
        """Prolong this server's leases on these jobs: they last `lease_s` from now.

        One that has run out, and that nobody took, is prolonged too. Those that are not named run out: what was taken
        while the connection broke is known to the store alone.
        """
        ...

    async def listing(self, user: str | None = None) -> tuple[list[QueuedJob], list[QueuedJob]]:
        """The jobs that run, on whichever server, and those that wait, next one first."""
        ...

    async def remaining(self) -> Remaining:
        """How many jobs have not ended, and what those that wait take up."""
        ...

    async def take_out(self, ids: Collection[str] | None, user: str | None = None) -> Sequence[QueuedJob]:
        """Forget pending jobs, all of them for None; returns those that were taken out, by this call alone."""
        ...

    async def place(self, job_id: str, *, number: float | None, front: bool) -> bool:
        """Give a pending job this number, or the place before (`front`) or behind all. False: it waits no more."""
        ...

    async def ask_to_cancel(self, job_id: str) -> bool:
        """Have a job cancelled that runs on another server, when that renews its lease. False: it does not run."""
        ...

    async def ended(self, ids: Collection[str]) -> Sequence[str]:
        """Those of the jobs that have ended, or are gone."""
        ...
