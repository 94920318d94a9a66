"""Stores of each kind, and a private PostgreSQL where its programs are installed."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
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


def _postgres_program(name: str) -> str | None:
    found = shutil.which(name)
    if found is None:
        candidates = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
        found = str(candidates[-1]) if candidates else None
    return found


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[[], str]]:
    """A function that makes an empty database and returns its URL."""
    psycopg = pytest.importorskip("psycopg")
    initdb, pg_ctl = _postgres_program("initdb"), _postgres_program("pg_ctl")
    if initdb is None or pg_ctl is None:
        pytest.skip("PostgreSQL's initdb and pg_ctl are not installed")
    # Not under pytest's own folder: PostgreSQL refuses to run as root, and others may not enter there.
    folder = Path(tempfile.mkdtemp(prefix="comfyk-pg-"))
    other_user: dict[str, Any] = {}
    if os.getuid() == 0:
        shutil.chown(folder, "nobody")
        other_user = {"user": "nobody", "extra_groups": []}

    def run(*command: str) -> None:
        with (folder / "log").open("ab") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, cwd=folder, **other_user)

    try:
        run(
            initdb, "-D", f"{folder}/data", "-U", "postgres", "-A", "trust", "-N", "--no-locale", "-E", "UTF8"
        )
        options = f"-k {folder} -c listen_addresses='' -c fsync=off"
        run(pg_ctl, "-D", f"{folder}/data", "-w", "-l", f"{folder}/server.log", "-o", options, "start")
    except subprocess.CalledProcessError:
        log = (folder / "log").read_text(errors="replace")
        shutil.rmtree(folder)
        pytest.skip(f"PostgreSQL does not start here: {log[-500:]}")
    numbers = itertools.count()
    try:
        with psycopg.connect(f"host={folder} user=postgres dbname=postgres", autocommit=True) as admin:

            def make() -> str:
                name = f"test{next(numbers)}"
                admin.execute(f"CREATE DATABASE {name}")
                return f"postgresql://postgres@/{name}?host={folder}"

            yield make
    finally:
        run(pg_ctl, "-D", f"{folder}/data", "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/comfyk.db"
    return request.getfixturevalue("postgres")()
