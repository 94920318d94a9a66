"""Which prompts came in, and how they ended, in the log: in the words that programs look for in ComfyUI's."""

from __future__ import annotations

import asyncio
import logging

from comfyk.events import Event, JobEnded, JobQueued

log = logging.getLogger("comfyk.jobs")

_SOON_S = 0.002
"""A line costs about as much as running a small job: one that is over at once is told when its client knows."""


class JobLog:
    """Hears of JobQueued and JobEnded."""

    def __init__(self) -> None:
        self._came_in: list[str] = []
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, JobQueued):
            self._came_in.append(event.job_id)
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(_SOON_S, self.flush)
        elif isinstance(event, JobEnded) and event.seconds is not None:
            self.flush()
            log.info("Prompt executed in %.2f seconds: %s, %s", event.seconds, event.job_id, event.status)

    def flush(self) -> None:
        """Tell what has come in until now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        came_in, self._came_in = self._came_in, []
        for job_id in came_in:
            log.info("got prompt %s", job_id)
