"""Telling clients how far a job is.

A message about the state of all nodes grows with the nodes, so it is not sent at each step of each node: steps are
gathered for a moment, and the moment grows with the message. Nothing is lost by it, since each message is whole.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from comfyk.event_bus import EventBus
from comfyk.events import (
    Event,
    NodeProgress,
    Preview,
    PreviewImage,
    Progress,
    ProgressState,
    ProgressText,
)
from comfyk.graph.dynamic import DynamicPrompt

_INTERVAL_S = 0.05
_INTERVAL_PER_NODE_S = 25e-6


class JobProgress:
    """The progress of one job. `start`, `update` and `finish` come from the executor's thread."""

    def __init__(
        self,
        job_id: str,
        client_id: str | None,
        prompt: DynamicPrompt,
        tell: Callable[[Event], None],
        bus: EventBus,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """`tell` takes the events; the bus calls back on the app's `loop`."""
        self._job_id = job_id
        self._client_id = client_id
        self._prompt = prompt
        self._tell = tell
        self._bus = bus
        self._loop = loop
        self._nodes: dict[str, NodeProgress] = {}
        self._scheduled = False
        self._last_sent = 0.0

    def start(self, node_id: str) -> None:
        """A node begins."""
        self._nodes[node_id] = NodeProgress(
            node_id=node_id,
            display_node_id=self._prompt.get_display_node_id(node_id),
            parent_node_id=self._prompt.get_parent_node_id(node_id),
            real_node_id=self._prompt.get_real_node_id(node_id),
            state="running",
        )
        self._touch()

    def finish(self, node_id: str, state: str = "finished") -> None:
        """A node is done, or its result was at hand."""
        if node_id not in self._nodes:
            self.start(node_id)
        node = self._nodes[node_id]
        node.state = state
        node.value = node.max
        self._touch()

    def update(self, node_id: str, value: float, total: float, preview: PreviewImage | None) -> None:
        """A node is at `value` of `total`."""
        if node_id not in self._nodes:
            self.start(node_id)
        node = self._nodes[node_id]
        node.state, node.value, node.max = "running", value, total
        self._tell(
            Progress(client_id=self._client_id, job_id=self._job_id, node=node_id, value=value, max=total)
        )
        self._touch()
        if preview is not None:
            self._tell(Preview(client_id=self._client_id, job_id=self._job_id, image=preview, node=node))

    def text(self, node_id: str, text: str) -> None:
        self._tell(ProgressText(client_id=self._client_id, job_id=self._job_id, node=node_id, text=text))

    def _touch(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._bus.call(self._schedule)

    def _schedule(self) -> None:
        interval = _INTERVAL_S + _INTERVAL_PER_NODE_S * len(self._nodes)
        delay = self._last_sent + interval - time.monotonic()
        if delay <= 0:
            self.flush()
        else:
            self._loop.call_later(delay, self.flush)

    def flush(self) -> None:
        """Send the state as it stands, on the loop, unless nothing is new."""
        if self._scheduled:
            self._scheduled = False
            self._last_sent = time.monotonic()
            self._tell(self._state())

    def _state(self) -> Event:
        # In one step, since the executor's thread may add to it; a list of the items is none: making each may collect
        # garbage, which runs anybody's code.
        nodes = self._nodes.copy()
        return ProgressState(client_id=self._client_id, job_id=self._job_id, nodes=nodes)
