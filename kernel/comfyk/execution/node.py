"""One node while it runs: gathering its inputs, calling it, reading what it returned.

A node may take several steps: it can ask for lazy inputs, wait for its own async calls, or wait for the subgraph it
expanded to.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from comfyk import context
from comfyk.execution.cache import CacheEntry
from comfyk.execution.mapping import calls, find_blocker, merge, merge_ui
from comfyk.exits import without_exits
from comfyk.foreign_code import is_ours, text_of, watch
from comfyk.graph.signature import Uncacheable
from comfyk.io import ExecutionBlocker
from comfyk.nodes.definition import LiveInputs, NodeDef, NodeResult
from comfyk.nodes.links import Prompt, is_link, unwrap
from comfyk.nodes.results import plain_ui

if TYPE_CHECKING:
    from comfyk.execution.classes import NodeClasses
    from comfyk.execution.handle import JobHandle
    from comfyk.execution.objects import NodeObjects
    from comfyk.execution.report import Report
    from comfyk.execution.results import Results
    from comfyk.graph.dynamic import DynamicPrompt
    from comfyk.hooks import BoundHooks

log = logging.getLogger(__name__)

CANCEL_S = 5.0
"""How long an async call may take to end that was cancelled."""
_left_behind: set[asyncio.Future[Any]] = set()
"""A loop holds its tasks weakly."""


@dataclass(slots=True)
class NeedsInputs:
    """The node asked for these lazy inputs."""

    names: list[str]


@dataclass(slots=True)
class Waits:
    """The node's async calls are under way."""

    tasks: list[asyncio.Future[Any]]


@dataclass(slots=True)
class Expands:
    """The node is to be replaced by a subgraph; some of its outputs link into it."""

    nodes: Prompt
    sources: list[str]
    ui: dict[str, Any] | None


Step = CacheEntry | NeedsInputs | Waits | Expands


@dataclass(slots=True)
class _Begun:
    """What is known of a node that has taken a step and is not done."""

    inputs: dict[str, list[Any]] = field(default_factory=dict)
    returned: list[Any] | None = None
    """What its calls returned, tasks included."""
    expanded: list[NodeResult] | None = None
    asked: set[str] = field(default_factory=set)
    """The lazy inputs that it asked for."""


class NodeRunner:
    """Takes the nodes of one job through their steps."""

    def __init__(
        self,
        handle: JobHandle,
        prompt: DynamicPrompt,
        classes: NodeClasses,
        results: Results,
        report: Report,
        objects: NodeObjects,
        hook: BoundHooks,
    ) -> None:
        self._handle = handle
        self._prompt = prompt
        self._classes = classes
        self._results = results
        self._report = report
        self._objects = objects
        self._hook = hook
        self._begun: dict[str, _Begun] = {}
        self._tasks: set[asyncio.Future[Any]] = set()
        self._wraps_calls = hook.implements("comfyk_node_call")

    def has_begun(self, node_id: str) -> bool:
        return node_id in self._begun

    def inputs_of(self, node_id: str) -> Mapping[str, list[Any]]:
        """The inputs that a node was called with, for an error message."""
        begun = self._begun.get(node_id)
        return begun.inputs if begun is not None else {}

    def cancel(self) -> None:
        """Cancel the async calls under way. Call it on the executor's loop."""
        for task in self._tasks:
            task.cancel()

    async def abandon(self) -> None:
        """Cancel what is under way and wait until it has gone; what does not go is left behind."""
        self.cancel()
        if self._tasks:
            _, left = await asyncio.wait(set(self._tasks), timeout=CANCEL_S)
            if left:
                log.error(
                    "%d async calls of nodes do not end though they were cancelled; left behind", len(left)
                )
                _left_behind.update(left)
                for task in left:
                    task.add_done_callback(_left_behind.discard)
        self._tasks.clear()

    async def step(self, node_id: str) -> Step:
        """Take a node as far as it goes now. What the node raises comes out."""
        definition = self._classes.of(node_id)
        begun = self._begun.setdefault(node_id, _Begun())
        if begun.expanded is not None:
            entry = self._resolve_expansion(begun.expanded, definition)
        elif begun.returned is not None:
            outcome = self._read([_result_of(item) for item in begun.returned], definition, begun)
            if isinstance(outcome, Expands):
                return outcome
            entry = outcome
        else:
            started = await self._start(node_id, definition, begun)
            if not isinstance(started, CacheEntry):
                return started
            entry = started
        del self._begun[node_id]
        return entry

    async def _start(self, node_id: str, definition: NodeDef, begun: _Begun) -> Step:
        live = self._classes.live(node_id)
        begun.inputs, missing = self._gather(node_id, definition, live, begun.asked)
        hidden = self._hidden(node_id, live)
        obj = self._object_for(node_id)
        if definition.has("check_lazy_status"):
            wanted = await self._ask_lazy(node_id, definition, obj, live, begun.inputs, hidden)
            needed = [name for name in wanted if name in missing or name not in begun.inputs]
            if needed:
                begun.asked.update(needed)
                return NeedsInputs(needed)
        returned: list[Any] = []
        begun.returned = returned
        whole_lists = definition.input_is_list
        for index, arguments in enumerate(calls(begun.inputs, whole_lists)):
            self._handle.check_interrupted()
            blocker = find_blocker(arguments, whole_lists)
            if blocker is None:
                returned.append(await self._call(node_id, index, definition, obj, live, arguments, hidden))
            else:
                if blocker.message is not None:
                    self._report.blocked(node_id, blocker.message)
                returned.append(NodeResult(blocked=True))
        tasks = [item for item in returned if isinstance(item, asyncio.Future)]
        if tasks:
            return Waits(tasks)
        return self._read(returned, definition, begun)

    def _object_for(self, node_id: str) -> Any:
        """The object that this node's calls are made on."""
        root = self._prompt.get_pair(self._prompt.get_real_node_id(node_id))
        return self._objects.get(self._prompt.get_pair(node_id), root, self._classes.of(node_id).create)

    async def _call(
        self,
        node_id: str,
        index: int,
        definition: NodeDef,
        obj: Any,
        live: LiveInputs,
        arguments: dict[str, Any],
        hidden: Mapping[str, Any],
    ) -> Any:
        call = context.NodeCall(self._handle, self._handle.job_id, node_id, index)
        with context.node_call(call):
            if self._wraps_calls:
                returned = self._wrapped(definition, obj, live, arguments, hidden)
            else:
                returned = definition.call(obj, "execute", arguments, live, hidden)
            if not inspect.isawaitable(returned):
                return returned
            task = self._task(returned)
        await asyncio.sleep(0)  # a node that does not really wait is done after its first turn
        return task.result() if task.done() else task

    def _task(self, awaitable: Awaitable[Any]) -> asyncio.Future[Any]:
        """Let an async call go on, in the context it was made in, until it ends or the job is interrupted."""
        task = asyncio.ensure_future(without_exits(awaitable))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _wrapped(
        self,
        definition: NodeDef,
        obj: Any,
        live: LiveInputs,
        arguments: dict[str, Any],
        hidden: Mapping[str, Any],
    ) -> Any:
        """Call through the plugins that wrap node calls."""

        def innermost() -> Any:
            return definition.call(obj, "execute", arguments, live, hidden)

        return self._hook.around("comfyk_node_call", innermost, node=definition, inputs=arguments)

    async def _ask_lazy(
        self,
        node_id: str,
        definition: NodeDef,
        obj: Any,
        live: LiveInputs,
        inputs: dict[str, list[Any]],
        hidden: Mapping[str, Any],
    ) -> list[str]:
        wanted: dict[str, None] = {}
        for index, arguments in enumerate(calls(inputs, definition.input_is_list)):
            with context.node_call(context.NodeCall(self._handle, self._handle.job_id, node_id, index)):
                with watch("the lazy inputs of node", definition.name):
                    answer = definition.call(obj, "check_lazy_status", arguments, live, hidden)
                if inspect.isawaitable(answer):
                    answer = await self._task(answer)
            if isinstance(answer, (list, tuple, set)):
                wanted.update(dict.fromkeys(name for name in answer if isinstance(name, str)))
        return list(wanted)

    def _gather(
        self, node_id: str, definition: NodeDef, live: LiveInputs, asked: Collection[str]
    ) -> tuple[dict[str, list[Any]], set[str]]:
        """The items of each input, and the names of those whose link has no value (yet).

        A lazy input has none until the node asks for it, though it may be at hand: what the node makes depends on
        what it asked for and on nothing else.
        """
        values: dict[str, list[Any]] = {}
        missing: set[str] = set()
        for name, value in self._prompt.get_node(node_id)["inputs"].items():
            spec = live.specs.get(name)
            if is_link(value) and not (spec is not None and spec.raw_link):
                waits = spec is not None and spec.lazy and name not in asked
                items = None if waits else self._results.items_of(value[0], int(value[1]))
                if items is None:
                    missing.add(name)
                    items = [None]
                values[name] = items
            elif spec is not None or definition.accept_all_inputs:
                values[name] = [unwrap(value)]
        return values, missing

    def _hidden(self, node_id: str, live: LiveInputs) -> dict[str, Any]:
        if not live.hidden:
            return {}
        job = self._handle.job
        given = {
            "PROMPT": self._prompt.get_original_prompt(),
            "DYNPROMPT": self._prompt,
            "EXTRA_PNGINFO": job.extra_data.get("extra_pnginfo"),
            "UNIQUE_ID": node_id,
            "COMFY_USAGE_SOURCE": job.extra_data.get("comfy_usage_source"),
            "AUTH_TOKEN_COMFY_ORG": job.sensitive.get("auth_token_comfy_org"),
            "API_KEY_COMFY_ORG": job.sensitive.get("api_key_comfy_org"),
        }
        return {asked: given[asked] for asked in live.hidden.values() if asked in given}

    async def fingerprint(self, node_id: str, definition: NodeDef, inputs: Mapping[str, Any]) -> Any:
        """What the node's fingerprint method says of its constants. Raises Uncacheable when that fails."""
        try:
            return await self._fingerprint(node_id, definition, inputs)
        except BaseException as error:
            if is_ours(error):
                raise
            reason = text_of(error)
            log.warning("node %s (%s) has no fingerprint, so it runs: %s", node_id, definition.name, reason)
            raise Uncacheable from error

    async def _fingerprint(self, node_id: str, definition: NodeDef, inputs: Mapping[str, Any]) -> list[Any]:
        live = definition.live_inputs(inputs)
        values = {
            name: [None if is_link(value) else unwrap(value)]
            for name, value in inputs.items()
            if name in live.specs or definition.accept_all_inputs
        }
        hidden = self._hidden(node_id, live) | {"PROMPT": {}, "DYNPROMPT": None}
        answers = []
        for index, arguments in enumerate(calls(values, definition.input_is_list)):
            with context.node_call(context.NodeCall(self._handle, self._handle.job_id, node_id, index)):
                with watch("the fingerprint of node", definition.name):
                    answer = definition.call(definition.cls, "fingerprint", arguments, live, hidden)
                if inspect.isawaitable(answer):
                    with watch("the fingerprint of node", definition.name, awaits=True):
                        answer = await self._task(answer)
            answers.append(answer)
        return answers

    def _read(self, returned: list[Any], definition: NodeDef, begun: _Begun) -> CacheEntry | Expands:
        results = [item if isinstance(item, NodeResult) else definition.result(item) for item in returned]
        ui_parts = [result.ui for result in results if result.ui is not None]
        ui = plain_ui(merge_ui(ui_parts), definition.name) if ui_parts else None
        width = len(definition.output_types)
        for result in results:
            if result.blocked:
                result.values = (ExecutionBlocker(result.block),) * width
        if any(result.expand for result in results):
            begun.expanded = results
            nodes: Prompt = {}
            sources: dict[str, None] = {}
            for result in results:
                if result.expand:
                    nodes.update(result.expand)
                    sources.update(dict.fromkeys(value[0] for value in result.values or () if is_link(value)))
            return Expands(nodes, list(sources), ui)
        return CacheEntry(merge([result.values or () for result in results], definition.output_is_list), ui)

    def _resolve_expansion(self, results: list[NodeResult], definition: NodeDef) -> CacheEntry:
        """Put the results of the subgraph where the node's outputs linked to it."""
        resolved: list[tuple[Any, ...]] = []
        for result in results:
            values: list[Any] = list(result.values or ())
            for index, value in enumerate(values):
                if result.expand and is_link(value):
                    items = self._results.items_of(value[0], int(value[1]))
                    values[index] = _Items(items if items is not None else [None])
            resolved.append(tuple(values))
        outputs = merge(resolved, definition.output_is_list)
        return CacheEntry([_flatten(items) for items in outputs])


class _Items(list[Any]):
    """The items of an output of a subgraph, which take the place of one value."""


def _flatten(items: list[Any]) -> list[Any]:
    flat: list[Any] = []
    for item in items:
        flat.extend(item if isinstance(item, _Items) else (item,))
    return flat


def _result_of(item: Any) -> Any:
    return item.result() if isinstance(item, asyncio.Future) else item
