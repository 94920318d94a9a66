"""Jobs: what one is, the queue, and the protocols of what runs and what keeps them."""

from comfyk.jobs.ending import ending_of
from comfyk.jobs.executor import Executor, ExecutorDied
from comfyk.jobs.history import (
    duration,
    finished_detail,
    finished_summary,
    history_entry_json,
)
from comfyk.jobs.memory import MemoryJobStore
from comfyk.jobs.model import Job, JobStatus, Outcome
from comfyk.jobs.outputs import listed_outputs
from comfyk.jobs.shown import ended_detail, shown_detail, shown_line
from comfyk.jobs.store import (
    DuplicateJobError,
    JobDetail,
    JobQuery,
    JobStore,
    JobSummary,
    LeaseLostError,
    Renewal,
    SharedJobStore,
    StoreError,
    UnknownJobError,
)

__all__ = [
    "DuplicateJobError",
    "Executor",
    "ExecutorDied",
    "Job",
    "JobDetail",
    "JobQuery",
    "JobStatus",
    "JobStore",
    "JobSummary",
    "LeaseLostError",
    "MemoryJobStore",
    "Outcome",
    "Renewal",
    "SharedJobStore",
    "StoreError",
    "UnknownJobError",
    "duration",
    "ended_detail",
    "ending_of",
    "finished_detail",
    "finished_summary",
    "history_entry_json",
    "listed_outputs",
    "shown_detail",
    "shown_line",
]
