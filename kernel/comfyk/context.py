"""What code inside a node, a hook or a request may ask for: the app, and the node call under way.

Both live in context variables, so that several apps can run in one process and async nodes do not mix up.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from comfyk.app import App
    from comfyk.jobs.model import Job

_app: ContextVar[App] = ContextVar("comfyk_app")
_call: ContextVar[NodeCall | None] = ContextVar("comfyk_node_call", default=None)


class Interrupted(Exception):
    """The job was asked to stop. Raised out of `progress` and `check_interrupted`; let it pass."""


class Run(Protocol):
    """The part of a running job that a node may reach."""

    job_id: str
    job: Job
    """What runs, with the `extra_data` that the client sent along."""

    def progress(self, node_id: str, value: float, total: float, preview: Any | None = None) -> None: ...
    def progress_text(self, node_id: str, text: str) -> None: ...
    def check_interrupted(self) -> None: ...


@dataclass(slots=True)
class NodeCall:
    """One call of a node: which job, which node, and which item of a mapped list."""

    run: Run
    job_id: str
    node_id: str
    list_index: int | None = None
    _graphs: int = 0

    def next_graph(self) -> int:
        """Number the subgraphs that this call builds, from 0."""
        self._graphs += 1
        return self._graphs - 1


def current_app() -> App:
    """The app that runs this code. Raises RuntimeError outside of one."""
    try:
        return _app.get()
    except LookupError:
        raise RuntimeError(
            "no comfyk app is running here; use `with app.active():` around this code"
        ) from None


@contextmanager
def active_app(app: App) -> Iterator[App]:
    token = _app.set(app)
    try:
        yield app
    finally:
        _app.reset(token)


def set_app(app: App) -> None:
    """Make `app` the current one for the rest of this context (a thread, a task)."""
    _app.set(app)


def current_call() -> NodeCall | None:
    """The node call under way, or None outside of a node."""
    return _call.get()


@contextmanager
def node_call(call: NodeCall) -> Iterator[NodeCall]:
    token = _call.set(call)
    try:
        yield call
    finally:
        _call.reset(token)


def progress(value: float, total: float, preview: Any | None = None, node_id: str | None = None) -> None:
    """Report how far the running node is, with an optional preview (`comfyk.events.PreviewImage`).

    Raises Interrupted when the job was asked to stop, so a long loop that reports progress can be interrupted.
    Outside of a job it does nothing.
    """
    call = _call.get()
    if call is not None:
        call.run.check_interrupted()
        call.run.progress(node_id or call.node_id, value, total, preview)


def progress_text(text: str, node_id: str | None = None) -> None:
    """Show a line of text on the running node. Outside of a job it does nothing."""
    call = _call.get()
    if call is not None:
        call.run.progress_text(node_id or call.node_id, text)


def check_interrupted() -> None:
    """Raise Interrupted when the running job was asked to stop."""
    call = _call.get()
    if call is not None:
        call.run.check_interrupted()
