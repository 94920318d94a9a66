"""Requests that wait for a job (`wait=SECONDS`), and how far the jobs are that run here.

However many wait for one job, one task asks the queue, and only while somebody waits. A request whose client leaves
waits no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from aiohttp import web
from comfyk import App
from comfyk.api import ApiError
from comfyk.events import Event, ExecutionStart, JobEnded, ProgressState
from comfyk.jobs import Job, JobDetail, JobStatus, Outcome, ended_detail

from comfyk_http.connections import Connection, Connections


@dataclass(slots=True, eq=False)
class _Waiter:
    for_start: bool
    """Whether it also wants to know that the job begins to run."""
    news: asyncio.Future[Outcome | None]


@dataclass(slots=True, eq=False)
class _Watched:
    """A job that requests wait for."""

    end: asyncio.Future[Outcome]
    waiters: set[_Waiter] = field(default_factory=set)


class JobWatch:
    """Who waits for which job. All of it happens on the app's loop."""

    def __init__(self, app: App, connections: Connections, longest: float) -> None:
        """`longest`: how many seconds a request may wait."""
        self._app = app
        self._connections = connections
        self._longest = longest
        self._watched: dict[str, _Watched] = {}
        self._running: dict[str, ProgressState | None] = {}
        """The jobs that run here, with the latest that is known of their nodes."""
        self._closed = False
        self._unsubscribe: Callable[[], None] | None = app.events.subscribe(
            self._on_event, ExecutionStart, ProgressState, JobEnded
        )

    async def ended(self, request: web.Request, job: Job, seconds: float) -> JobDetail | None:
        """The job once it has ended, None when it has not in so many seconds.

        Raises ConnectionResetError when the client leaves; the job goes on.
        """
        try:
            outcome = await self._wait(request, job.id, seconds, for_start=False)
        except KeyError:
            return await self._left_queue(job)
        return None if outcome is None else ended_detail(job, outcome)

    async def changed(self, request: web.Request, detail: JobDetail, seconds: float) -> JobDetail:
        """The job once it is not as `detail` has it: it runs now, or has ended; or as it is after so many seconds.

        Raises ApiError (503) when too many wait, and ConnectionResetError when the client leaves.
        """
        self.check_room()
        pending = detail.summary.status is JobStatus.PENDING
        try:
            outcome = await self._wait(request, detail.job.id, seconds, for_start=pending)
        except KeyError:
            return await self._left_queue(detail.job)
        if outcome is not None:
            return ended_detail(detail.job, outcome)
        return await self._app.jobs.store.get(detail.job.id) or detail

    def check_room(self) -> None:
        """Raises ApiError (503) when as many wait as may."""
        if not self._connections.room_to_stay:
            self._connections.say("waiting", "as many requests and WebSockets wait as there may be")
            raise ApiError(
                503,
                "too_many_waiting",
                "As many requests wait for jobs as the server takes.",
                "Ask without wait, or again in a moment. http.max_connections is the limit.",
                headers={"Retry-After": "5"},
            )

    def progress(self, detail: JobDetail) -> dict[str, Any] | None:
        """How far a job is that runs here; None for any other."""
        if detail.outcome is not None or detail.job.id not in self._running:
            return None
        state, nodes = self._running[detail.job.id], detail.job.prompt
        known = {} if state is None else state.nodes
        done = sum(node_id in nodes and node.state == "finished" for node_id, node in known.items())
        running = [
            {"node_id": node_id, "value": node.value, "max": node.max}
            for node_id, node in known.items()
            if node.state == "running"
        ]
        parts = [min(node["value"] / node["max"], 1) for node in running if node["max"] > 0]
        return {
            "value": round(min((done + sum(parts)) / max(len(nodes), 1), 1), 4),
            "nodes_done": done,
            "nodes_total": len(nodes),
            "running": running,
        }

    async def close(self, _: web.Application | None = None) -> None:
        """The server stops: whoever waits is answered now."""
        self._closed = True
        for watched in self._watched.values():
            _tell(watched, None)
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    async def _left_queue(self, job: Job) -> JobDetail:
        """A job that is no more in the queue: the store knows how it ended, or it was taken out while it waited."""
        found = await self._app.jobs.store.get(job.id)
        return found or ended_detail(job, Outcome(JobStatus.CANCELLED, None, job.created_at))

    async def _wait(
        self, request: web.Request, job_id: str, seconds: float, *, for_start: bool
    ) -> Outcome | None:
        """How the job ended; None when time is up, the server stops, or (`for_start`) the job runs.

        Raises KeyError when it is not in the queue, and ConnectionResetError when the client leaves.
        """
        seconds = min(seconds, self._longest)
        if seconds <= 0 or self._closed or (for_start and job_id in self._running):
            return None
        loop = asyncio.get_running_loop()
        waiter = _Waiter(for_start, loop.create_future())
        watched = self._watched.get(job_id)
        if watched is None or watched.end.done():
            watched = self._watched[job_id] = _Watched(asyncio.ensure_future(self._app.jobs.wait(job_id)))
            watched.end.add_done_callback(lambda end, watched=watched: _hand_on(end, watched))
        watched.waiters.add(waiter)

        def leave() -> None:
            if not waiter.news.done():
                waiter.news.set_exception(ConnectionResetError("the client has left"))

        stay = cast("Connection", request.protocol).when_gone(leave)
        alarm = loop.call_later(seconds, _resolve, waiter, None)
        self._connections.waiting += 1
        try:
            return await waiter.news
        finally:
            self._connections.waiting -= 1
            alarm.cancel()
            stay()
            watched.waiters.discard(waiter)
            if not watched.waiters and self._watched.get(job_id) is watched:
                del self._watched[job_id]
                watched.end.cancel()

    def _on_event(self, event: Event) -> None:
        match event:
            case ProgressState():
                if event.job_id in self._running:
                    self._running[event.job_id] = event
            case ExecutionStart():
                self._running[event.job_id] = None
                if watched := self._watched.get(event.job_id):
                    _tell(watched, None, only_for_start=True)
            case JobEnded():
                self._running.pop(event.job_id, None)


def _hand_on(end: asyncio.Future[Outcome], watched: _Watched) -> None:
    """The queue's answer goes to all who wait; when the queue stops, they hear that there is none."""
    if end.cancelled():
        _tell(watched, None)
    elif (error := end.exception()) is not None:
        for waiter in watched.waiters:
            if not waiter.news.done():
                waiter.news.set_exception(error)
    else:
        _tell(watched, end.result())


def _tell(watched: _Watched, outcome: Outcome | None, *, only_for_start: bool = False) -> None:
    for waiter in watched.waiters:
        if waiter.for_start or not only_for_start:
            _resolve(waiter, outcome)


def _resolve(waiter: _Waiter, outcome: Outcome | None) -> None:
    if not waiter.news.done():
        waiter.news.set_result(outcome)
