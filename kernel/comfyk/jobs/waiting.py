"""The jobs that wait, in the order in which they will run."""

from __future__ import annotations

import heapq
import itertools
import math

from comfyk.jobs.model import Job

_Key = tuple[float, int, str]


class WaitingJobs:
    """A priority queue: the lowest `number` first, equal numbers in the order they came.

    `push` and `pop` cost O(log n). What was taken out or given another place leaves its old key in the heap, where
    `pop` passes over it.
    """

    def __init__(self) -> None:
        self._heap: list[_Key] = []
        self._jobs: dict[str, tuple[_Key, Job]] = {}
        self._sequence = itertools.count()

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._jobs

    def ids(self) -> list[str]:
        """Their ids, in no particular order."""
        return list(self._jobs)

    def in_order(self) -> list[Job]:
        """All of them, next one first."""
        return [job for _, job in sorted(self._jobs.values(), key=lambda entry: entry[0])]

    def get(self, job_id: str) -> Job | None:
        entry = self._jobs.get(job_id)
        return entry[1] if entry is not None else None

    def push(self, job: Job) -> None:
        """Put a job in at its number, or give one that waits the place that its number has now."""
        # A job that was running when the process ended comes before all others.
        place = -math.inf if job.attempts else job.number
        key = (place, next(self._sequence), job.id)
        self._jobs[job.id] = (key, job)
        heapq.heappush(self._heap, key)

    def pop(self) -> Job | None:
        """Take the next one out; None when there is none."""
        while self._heap:
            key = heapq.heappop(self._heap)
            entry = self._jobs.get(key[2])
            if entry is not None and entry[0] == key:
                return self._jobs.pop(key[2])[1]
        return None

    def remove(self, job_id: str) -> _Key:
        """Take one out; returns its place, for `put_back`. Raises KeyError when it does not wait."""
        return self._jobs.pop(job_id)[0]

    def put_back(self, key: _Key, job: Job) -> None:
        """Give a job that was taken out the place that it had."""
        self._jobs[job.id] = (key, job)
        heapq.heappush(self._heap, key)

    def place_beyond(self, job: Job, *, front: bool) -> float:
        """The number that puts a job before, or behind, all others."""
        others = [other.number for _, other in self._jobs.values() if other is not job]
        return min(others, default=0) - 1 if front else max(others, default=0) + 1
