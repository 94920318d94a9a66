"""What a running node may reach of its job: progress, and whether it was asked to stop (`comfyk.context.Run`)."""

from __future__ import annotations

import threading

from comfyk.context import Interrupted
from comfyk.events import PreviewImage
from comfyk.execution.progress import JobProgress
from comfyk.jobs.model import Job


class JobHandle:
    """One job, as its nodes see it."""

    def __init__(self, job: Job, progress: JobProgress) -> None:
        self.job = job
        self.job_id = job.id
        self._progress = progress
        self._interrupted = threading.Event()

    @property
    def interrupted(self) -> bool:
        return self._interrupted.is_set()

    def interrupt(self) -> None:
        """Let the job end at the next `check_interrupted`; from any thread."""
        self._interrupted.set()

    def check_interrupted(self) -> None:
        if self._interrupted.is_set():
            raise Interrupted("the job was interrupted")

    def progress(self, node_id: str, value: float, total: float, preview: PreviewImage | None = None) -> None:
        self._progress.update(node_id, value, total, preview)

    def progress_text(self, node_id: str, text: str) -> None:
        self._progress.text(node_id, text)
