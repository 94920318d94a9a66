"""Jobs: what one is, the queue, and the protocols of what runs and what keeps them."""

from comfyk.jobs.ending import ending_of
from comfyk.jobs.executor import Executor, ExecutorDied
from comfyk.jobs.history import (
    duration,
    finished_detail,
    finished_summary,
    history_entry_json,
    newest_fitting,
)
from comfyk.jobs.memory import MemoryJobStore
from comfyk.jobs.model import Job, JobStatus, Outcome, PackedJob, QueuedJob
from comfyk.jobs.outputs import listed_outputs
from comfyk.jobs.packing import listed, pack, unpack
from comfyk.jobs.shown import ended_detail, shown_detail, shown_line
from comfyk.jobs.store import (
    DuplicateJobError,
    JobDetail,
    JobQuery,
    JobStore,
    JobSummary,
    LeaseLostError,
    QueueFullError,
    Remaining,
    Renewal,
    SharedJobStore,
    StoreError,
    UnknownJobError,
    UnreadableJobError,
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
    "PackedJob",
    "QueueFullError",
    "QueuedJob",
    "Remaining",
    "Renewal",
    "SharedJobStore",
    "StoreError",
    "UnknownJobError",
    "UnreadableJobError",
    "duration",
    "ended_detail",
    "ending_of",
    "finished_detail",
    "finished_summary",
    "history_entry_json",
    "listed",
    "listed_outputs",
    "newest_fitting",
    "pack",
    "shown_detail",
    "shown_line",
    "unpack",
]
