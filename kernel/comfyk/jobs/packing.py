"""Jobs as bytes: how they lie in a store, and how they are read when their turn comes."""

from __future__ import annotations

from typing import Any

from comfyk.jobs.model import Job, PackedJob, QueuedJob
from comfyk.jobs.store import StoreError, UnreadableJobError
from comfyk.wire import dumps, loads_anything


def pack(job: Job) -> PackedJob:
    """What the job runs, as bytes. Raises StoreError when it has no JSON form."""
    if job.packed is not None:
        return job.packed
    try:
        body = dumps([job.prompt, job.extra_data, job.targets])
        return PackedJob(body, dumps(job.sensitive) if job.sensitive else None)
    except ValueError as error:
        raise StoreError(f"Job {job.id} cannot be written as JSON: {error}") from error


def unpack(queued: QueuedJob, packed: PackedJob) -> Job:
    """The job whole. Raises UnreadableJobError."""
    try:
        prompt, extra_data, targets = _fields(packed.body)
        sensitive = {} if packed.sensitive is None else loads_anything(packed.sensitive)
        _check(isinstance(sensitive, dict), "its tokens are no object")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UnreadableJobError(queued, f"what is stored of it is no job ({error})") from error
    except MemoryError as error:
        raise UnreadableJobError(
            queued, f"there is not enough memory for it ({queued.size:,} bytes in the store)"
        ) from error
    return Job(
        id=queued.id,
        number=queued.number,
        prompt=prompt,
        extra_data=extra_data,
        targets=targets,
        sensitive=sensitive,
        user=queued.user,
        created_at=queued.created_at,
        attempts=queued.attempts,
    )


def queued(job: Job, size: int = 0) -> QueuedJob:
    """What is left of a job where it is not kept whole."""
    return QueuedJob(
        job.id, job.number, job.user, job.created_at, job.attempts, size, client_id=job.client_id
    )


def unread(queued: QueuedJob) -> Job:
    """What stands for a job that cannot be read."""
    extra_data: dict[str, Any] = {"create_time": queued.created_at}
    if queued.client_id is not None:
        extra_data["client_id"] = queued.client_id
    return Job(
        id=queued.id,
        number=queued.number,
        prompt={},
        extra_data=extra_data,
        targets=[],
        user=queued.user,
        created_at=queued.created_at,
        attempts=queued.attempts,
    )


def _fields(body: bytes) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    value = loads_anything(body)
    if isinstance(value, dict):  # as it was written before there was a `PackedJob`
        value = value["prompt"], value["extra_data"], value["targets"]
    prompt, extra_data, targets = value
    _check(isinstance(prompt, dict), "its prompt is no object")
    _check(isinstance(extra_data, dict), "its extra data is no object")
    _check(
        isinstance(targets, list) and all(isinstance(node_id, str) for node_id in targets),
        "its targets are no list of nodes",
    )
    return prompt, extra_data, targets


def _check(right: bool, wrong: str) -> None:
    if not right:
        raise ValueError(wrong)


_READ_UP_TO = 1_000_000
"""Bytes of a body that is read to see whether it is whole; a larger one is looked at."""


def listed(body: bytes) -> bytes | None:
    """A stored body as part of a list of jobs: the JSON `[prompt, extra data, targets]`; None when it is damaged."""
    if len(body) > _READ_UP_TO and body.startswith(b"[{") and body.endswith(b"]]") and b"\0" not in body:
        return body
    try:
        fields = _fields(body)
        return body if body.startswith(b"[") else dumps(fields)
    except (ValueError, TypeError, KeyError, RecursionError, MemoryError):
        return None
