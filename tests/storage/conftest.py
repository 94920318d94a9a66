"""Stores of each kind, and a private PostgreSQL where its programs are installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comfyk.jobs.model import Job, JobStatus, Outcome


@pytest.fixture
def make_job() -> Callable[..., Job]:
    """`make_job("a", number=3)`: a job with the rest filled in; `workflow="w"` gives it a workflow id."""

    def make(job_id: str, workflow: str | None = None, **fields: Any) -> Job:
        extra: dict[str, Any] = {"client_id": "c"}
        if workflow is not None:
            extra["extra_pnginfo"] = {"workflow": {"id": workflow, "nodes": []}}
        defaults: dict[str, Any] = {
            "number": 1,
            "prompt": {"9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0]}}},
            "extra_data": extra,
            "targets": ["9"],
            "created_at": 1_700_000_000_000,
        }
        return Job(id=job_id, **(defaults | fields))

    return make


@pytest.fixture
def make_outcome() -> Callable[..., Outcome]:
    def make(status: JobStatus = JobStatus.COMPLETED, start: int | None = 100, end: int = 200) -> Outcome:
        kind = {"completed": "execution_success", "failed": "execution_error"}.get(
            status, "execution_interrupted"
        )
        outputs = {"9": {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}]}}
        return Outcome(
            status=status,
            started_at=start,
            finished_at=end,
            outputs=outputs if status is JobStatus.COMPLETED else {},
            meta={"9": {"node_id": "9", "display_node": "9", "parent_node": None, "real_node_id": "9"}},
            messages=[("execution_start", {"timestamp": start}), (kind, {"timestamp": end})],
        )

    return make


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/comfyk.db"
    return request.getfixturevalue("postgres")()
