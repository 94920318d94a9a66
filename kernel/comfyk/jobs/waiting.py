"""The jobs that wait, in the order in which they will run: a record of each, what it runs is in the store."""

from __future__ import annotations

import heapq
import itertools
import math

from comfyk.jobs.model import QueuedJob

_Key = tuple[float, int, str]

RECORD = 1000
"""Bytes that one takes up, beside what it runs."""


class WaitingJobs:
    """A priority queue: the lowest `number` first, equal numbers in the order they came.

    `push`, `next` and `remove` cost O(log n). What was taken out or given another place leaves its old key in the heap,
    where `next` passes over it.
    """

    def __init__(self) -> None:
        self._heap: list[_Key] = []
        self._jobs: dict[str, tuple[_Key, QueuedJob]] = {}
        self.size = 0
        """Bytes of all of them, with what they run."""
        self._sequence = itertools.count()

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._jobs

    def ids(self) -> list[str]:
        """Their ids, in no particular order."""
        return list(self._jobs)

    def in_order(self) -> list[QueuedJob]:
        """All of them, next one first."""
        return [job for _, job in sorted(self._jobs.values(), key=lambda entry: entry[0])]

    def get(self, job_id: str) -> QueuedJob | None:
        entry = self._jobs.get(job_id)
        return entry[1] if entry is not None else None

    def push(self, job: QueuedJob) -> None:
        """Put a job in at its number, or give one that waits the place that its number has now."""
        # A job that was running when the process ended comes before all others.
        place = -math.inf if job.attempts else job.number
        self.put_back((place, next(self._sequence), job.id), job)

    def next(self) -> QueuedJob | None:
        """The next one, which stays in; None when there is none."""
        while self._heap:
            key = self._heap[0]
            entry = self._jobs.get(key[2])
            if entry is not None and entry[0] == key:
                return entry[1]
            heapq.heappop(self._heap)
        return None

    def remove(self, job_id: str) -> _Key:
        """Take one out; returns its place, for `put_back`. Raises KeyError when it does not wait."""
        key, job = self._jobs.pop(job_id)
        self.size -= job.size + RECORD
        return key

    def put_back(self, key: _Key, job: QueuedJob) -> None:
        """Give a job that was taken out the place that it had."""
        if job.id in self._jobs:
            self.remove(job.id)
        self._jobs[job.id] = (key, job)
        self.size += job.size + RECORD
        heapq.heappush(self._heap, key)
        if len(self._heap) > 2 * len(self._jobs) + 100:  # most of it is old keys
            self._heap = [key for key, _ in self._jobs.values()]
            heapq.heapify(self._heap)

    def place_beyond(self, job: QueuedJob, *, front: bool) -> float:
        """The number that puts a job before, or behind, all others."""
        others = [other.number for _, other in self._jobs.values() if other is not job]
        return min(others, default=0) - 1 if front else max(others, default=0) + 1
