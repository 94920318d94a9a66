"""What the jobs of a queue run, read from the store a part at a time: it may be more than there is memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from comfyk.jobs.line import Line
from comfyk.jobs.model import Job, QueuedJob
from comfyk.jobs.packing import pack
from comfyk.jobs.store import JobStore, UnknownJobError, UnreadableJobError

_BYTES, _JOBS = 1_000_000, 500
"""Of one part."""
_NOTHING = b"[{},{},[]]"
"""What is shown of a job that cannot be read."""


def parts_of(jobs: Sequence[QueuedJob]) -> list[list[QueuedJob]]:
    """The jobs in parts of about a megabyte of what they run; without jobs there is none."""
    parts: list[list[QueuedJob]] = []
    room = 0
    for job in jobs:
        if not parts or job.size > room or len(parts[-1]) == _JOBS:
            parts.append([])
            room = _BYTES
        parts[-1].append(job)
        room -= job.size
    return parts


async def read_bodies(
    store: JobStore, line: Line, running: Mapping[str, Job], jobs: Sequence[QueuedJob]
) -> AsyncIterator[list[tuple[QueuedJob, bytes]]]:
    """See `JobQueue.bodies`; `running` are the jobs that are in memory."""
    for part in parts_of(jobs):
        here = {job.id: pack(running[job.id]).body for job in part if job.id in running}
        missing = [job.id for job in part if job.id not in here]
        found = {**(await store.bodies(missing) if missing else {}), **here}
        if len(found) < len(part):
            _, waiting = await line.listing(None)
            damaged = {job.id for job in waiting} & set(missing) - set(found)
            found |= dict.fromkeys(damaged, _NOTHING)
        yield [(job, found[job.id]) for job in part if job.id in found]


async def read_whole(store: JobStore, jobs: Sequence[QueuedJob]) -> dict[str, Job]:
    """Jobs by id; those that cannot be read, or have left the queue, are left out."""
    whole: dict[str, Job] = {}
    for job in jobs:
        try:
            whole[job.id] = await store.read(job)
        except (UnreadableJobError, UnknownJobError):
            continue
    return whole
