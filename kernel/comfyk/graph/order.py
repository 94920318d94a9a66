"""Which node runs next.

A graph is dissolved from its sources: a node is ready once nothing it waits for is left. A node that was staged
can go back with more to wait for (a lazy input, a subgraph). Adding, staging and completing cost what the node's
own links cost, and a heap.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from comfyk.graph.dynamic import DynamicPrompt
from comfyk.nodes.links import is_link


class DependencyCycleError(Exception):
    """Nodes wait for each other."""

    def __init__(self, nodes: list[str]) -> None:
        super().__init__("Dependency cycle detected: " + ", ".join(nodes))
        self.nodes = nodes


class GivenUpError(Exception):
    """Nobody waits any more for what async nodes do."""


class NodeInputError(Exception):
    """A node asked for an input that it has no link for."""


@dataclass(slots=True)
class _Pending:
    sequence: int
    first: bool
    """An output or async node: run as soon as it can."""
    waits_for: int = 0
    blocking: dict[str, None] = field(default_factory=dict)
    steps_to_output: int = 3
    """1: feeds an output node, 2: feeds one that does, 3: further away."""
    queued: bool = False


class ExecutionOrder:
    """The nodes still to run.

    `is_done(node_id)` says whether a node's result is at hand; `is_lazy(node_id, input)` whether an input is
    wanted only when the node asks for it; `runs_first(node_id)` whether it is an output or async node; `on_link`
    hears of each (source, consumer) pair, so that results can be held while they are needed.
    """

    def __init__(
        self,
        prompt: DynamicPrompt,
        *,
        is_done: Callable[[str], bool],
        is_lazy: Callable[[str, str], bool],
        is_output: Callable[[str], bool],
        runs_first: Callable[[str], bool],
        on_link: Callable[[str, str], None],
    ) -> None:
        self._prompt = prompt
        self._is_done = is_done
        self._is_lazy = is_lazy
        self._is_output = is_output
        self._runs_first = runs_first
        self._on_link = on_link
        self._pending: dict[str, _Pending] = {}
        self._ready: list[tuple[int, int, str]] = []
        self._external = 0
        self._given_up = False
        self._unblocked = asyncio.Event()
        self._count = 0

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, node_id: str) -> bool:
        return node_id in self._pending

    def add(self, node_id: str) -> None:
        """Add a node and all that it needs and that is not done; lazy inputs wait until they are asked for."""
        stack = [node_id]
        links: list[tuple[str, str]] = []
        added: list[str] = []
        while stack:
            current = stack.pop()
            if current in self._pending:
                continue
            node = _Pending(self._count, self._runs_first(current))
            self._count += 1
            self._pending[current] = node
            added.append(current)
            for name, value in self._prompt.get_node(current)["inputs"].items():
                if is_link(value) and not self._is_lazy(current, name):
                    links.append((value[0], current))
                    if not self._is_done(value[0]):
                        stack.append(value[0])
        for source, consumer in links:
            self._link(source, consumer)
        for current in added:
            self._enqueue(current)

    def add_link(self, source: str, consumer: str) -> None:
        """Let a pending node wait for one more."""
        if not self._is_done(source):
            self.add(source)
        self._link(source, consumer)

    def require_input(self, node_id: str, name: str) -> None:
        """A node asks for a lazy input after all. Raises NodeInputError when there is no link behind it."""
        inputs = self._prompt.get_node(node_id)["inputs"]
        if name not in inputs:
            raise NodeInputError(
                f"the node asks for its input {name!r}, but the prompt gives it none of that name"
            )
        value = inputs[name]
        if not is_link(value):
            raise NodeInputError(
                f"the node asks for its input {name!r}, but that is a constant and at hand already"
            )
        self.add_link(value[0], node_id)

    def block(self, node_id: str) -> Callable[[], None]:
        """Keep a node back until the returned function is called (on the same loop)."""
        self._pending[node_id].waits_for += 1
        self._external += 1

        def release() -> None:
            self._external -= 1
            if node_id in self._pending:
                self._release(node_id)
            self._unblocked.set()

        return release

    async def next(self) -> str:
        """The node to run now; waits while async nodes hold everything up.

        Raises DependencyCycleError, and GivenUpError when it would wait in vain.
        """
        while True:
            while self._ready:
                _, _, node_id = heapq.heappop(self._ready)
                node = self._pending.get(node_id)
                if node is not None:
                    node.queued = False
                    if node.waits_for == 0:
                        return node_id
            if not self._external:
                raise DependencyCycleError(self._cycle())
            if self._given_up:
                raise GivenUpError("async nodes do not end")
            await self._unblocked.wait()
            self._unblocked.clear()

    def give_up(self) -> None:
        """Wait no more for async nodes (call it on the same loop)."""
        self._given_up = True
        self._unblocked.set()

    def put_back(self, node_id: str) -> None:
        """A node that was taken is not finished: it runs again once nothing holds it."""
        self._enqueue(node_id)

    def complete(self, node_id: str) -> None:
        """A node is done: those that waited for it may run."""
        for consumer in self._pending.pop(node_id).blocking:
            if consumer in self._pending:
                self._release(consumer)

    def _link(self, source: str, consumer: str) -> None:
        self._on_link(source, consumer)
        node = self._pending.get(source)
        if node is None or consumer in node.blocking:
            return
        node.blocking[consumer] = None
        waiting = self._pending[consumer]
        waiting.waits_for += 1
        steps = 1 if self._is_output(consumer) else waiting.steps_to_output + 1
        if steps < node.steps_to_output:
            node.steps_to_output = steps
            self._bring_closer(source)

    def _bring_closer(self, node_id: str) -> None:
        """A node feeds an output: so, at one more step, do those that feed the node."""
        if self._pending[node_id].steps_to_output >= 2:
            return
        for value in self._prompt.get_node(node_id)["inputs"].values():
            if is_link(value) and (source := self._pending.get(value[0])) and node_id in source.blocking:
                source.steps_to_output = min(source.steps_to_output, 2)

    def _release(self, node_id: str) -> None:
        node = self._pending[node_id]
        node.waits_for -= 1
        self._enqueue(node_id)

    def _enqueue(self, node_id: str) -> None:
        node = self._pending[node_id]
        if node.waits_for == 0 and not node.queued:
            node.queued = True
            rank = 0 if node.first else node.steps_to_output
            heapq.heappush(self._ready, (rank, node.sequence, node_id))

    def _cycle(self) -> list[str]:
        """The nodes that wait for each other: what is left when every node that waits for nothing is taken away."""
        waits_for = {node_id: node.waits_for for node_id, node in self._pending.items()}
        free = [node_id for node_id, count in waits_for.items() if count == 0]
        while free:
            node_id = free.pop()
            del waits_for[node_id]
            for consumer in self._pending[node_id].blocking:
                if consumer in waits_for:
                    waits_for[consumer] -= 1
                    if waits_for[consumer] == 0:
                        free.append(consumer)
        return list(waits_for)
