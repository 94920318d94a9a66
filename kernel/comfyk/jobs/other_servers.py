"""What this server has to know of others that take jobs from the same store: leases, cancellations, ends."""

from __future__ import annotations

import asyncio
import logging

from comfyk.events import now_ms
from comfyk.jobs.ending import Endings, ending_of
from comfyk.jobs.line import Line
from comfyk.jobs.model import JobStatus, Outcome
from comfyk.jobs.running import RunningJobs
from comfyk.jobs.store import SharedJobStore, StoreError

log = logging.getLogger(__name__)

POLL_S = 1.0
"""How often a shared store is asked for what other servers did."""


class OtherServers:
    """Keeps the leases on this server's jobs, and learns what became of those that others run."""

    def __init__(self, store: SharedJobStore, line: Line, jobs: RunningJobs, endings: Endings) -> None:
        self._store = store
        self._line = line
        self._jobs = jobs
        self._endings = endings

    async def watch(self) -> None:
        """Renew the leases, and learn what other servers did."""
        renew_every = self._store.lease_s / 3
        clock = asyncio.get_running_loop().time
        renewed = clock()
        while True:
            await asyncio.sleep(min(POLL_S, renew_every))
            begun = clock()
            try:
                async with asyncio.timeout_at(max(renewed + self._store.lease_s, begun + renew_every)):
                    await self._renew()
                renewed = begun
            except (StoreError, TimeoutError) as error:
                log.error("the leases on the running jobs could not be renewed: %s", error or "no answer")
                if clock() - renewed > self._store.lease_s:
                    for running in self._jobs.running.values():
                        self._jobs.lose(running)
                continue
            except Exception:  # a fault of the store: trying again is all that helps
                log.exception("the leases on the running jobs could not be renewed")
                continue
            try:
                await self._learn_what_ended()
                before = self._line.length
                await self._line.refresh(len(self._jobs))
                if self._line.length != before:
                    self._jobs.changed()
            except StoreError as error:
                log.error("what other servers did could not be read: %s", error)
            except Exception:  # the leases must be renewed whatever is wrong
                log.exception("what other servers did could not be read")

    async def _renew(self) -> None:
        asked = [running for running in self._jobs.all() if not running.lost]
        # The answer knows nothing of those that are just being stored.
        stored = [running for running in asked if running.task is not None]
        renewal = await self._store.renew([running.job.id for running in asked])
        for running in stored:
            if self._jobs.running.get(running.job.id) is not running:
                continue  # it has run meanwhile
            if running.job.id not in renewal.held:
                self._jobs.lose(running)
            elif running.job.id in renewal.to_cancel:
                self._jobs.cancel(running)

    async def _learn_what_ended(self) -> None:
        """Tell the clients of this server how their jobs ended that another one ran."""
        elsewhere = self._jobs.elsewhere
        awaited = [one for one in self._endings.awaited if one not in elsewhere and not self._jobs.has(one)]
        asked = [*elsewhere, *awaited]
        for job_id in await self._store.ended(asked) if asked else ():
            detail = await self._store.get(job_id)
            job = self._jobs.elsewhere.pop(job_id, None)
            if self._jobs.has(job_id):
                continue
            if detail is not None and detail.outcome is not None:
                outcome = detail.outcome
            else:
                outcome = Outcome(JobStatus.CANCELLED, None, now_ms())
            if job is None:
                self._endings.tell_awaiting(job_id, outcome)
                continue
            if detail is not None and detail.outcome is not None:
                self._endings.tell_clients(ending_of(job, outcome), self._jobs.changed)
            self._endings.tell(job, outcome)
