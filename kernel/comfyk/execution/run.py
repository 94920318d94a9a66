"""One job while it runs: from the prompt to an outcome, on the executor's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from typing import Any

from comfyk.context import Interrupted
from comfyk.event_bus import EventBus
from comfyk.events import Event
from comfyk.execution.cache import CacheEntry, OutputCache, Scope
from comfyk.execution.classes import ClassGone, NodeClasses
from comfyk.execution.handle import JobHandle
from comfyk.execution.node import CANCEL_S, Expands, NeedsInputs, NodeRunner, Waits
from comfyk.execution.node_loop import LoopEnded
from comfyk.execution.objects import NodeObjects
from comfyk.execution.progress import JobProgress
from comfyk.execution.report import Report
from comfyk.execution.results import Results
from comfyk.graph.dynamic import DynamicPrompt
from comfyk.graph.order import DependencyCycleError, ExecutionOrder, GivenUpError
from comfyk.graph.signature import Key, LazyChoices, Signatures
from comfyk.hooks import BoundHooks
from comfyk.jobs.model import Job, Outcome
from comfyk.nodes.definition import NodeDef
from comfyk.nodes.registry import NodeRegistry


class JobRun:
    """Runs one job. `interrupt` may be called from any thread, all else belongs to the executor's."""

    def __init__(
        self,
        job: Job,
        nodes: NodeRegistry,
        cache: OutputCache,
        objects: NodeObjects,
        choices: LazyChoices,
        hook: BoundHooks,
        tell: Callable[[Event], None],
        events: EventBus,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """`tell` takes the job's events; progress is gathered for a moment on the app's `loop`, through `events`."""
        self.job = job
        self.prompt = DynamicPrompt(job.prompt)
        self.classes = NodeClasses(self.prompt, nodes)
        self.progress = JobProgress(job.id, job.client_id, self.prompt, tell, events, loop)
        self.report = Report(job, self.prompt, self.progress, tell)
        self._hook = hook
        self._broken_off: Exception | None = None
        self._cache = cache
        self._objects = objects
        self._handle = JobHandle(job, self.progress)
        self._signatures = Signatures(
            self.prompt, self.classes.get, self._fingerprint, self.classes.lazy_links, choices
        )
        self.results = Results(cache, self._signatures)
        self._nodes = NodeRunner(
            self._handle, self.prompt, self.classes, self.results, self.report, objects, hook
        )
        self._order = ExecutionOrder(
            self.prompt,
            is_done=lambda node_id: self.results.find(node_id) is not None,
            is_lazy=self.classes.is_lazy,
            is_output=self.classes.is_output,
            runs_first=self.classes.runs_first,
            on_link=self.results.hold,
        )

    def interrupt(self) -> None:
        """Stop as soon as a node reports progress, awaits, or ends."""
        self._handle.interrupt()

    def break_off(self, error: Exception) -> None:
        """The job is about to be cancelled on its loop, and this is why."""
        self._broken_off = error

    def cancel_calls(self) -> None:
        """Cancel the async calls under way, and soon wait no more for them. Call it on the executor's loop."""
        self._nodes.cancel()
        asyncio.get_running_loop().call_later(CANCEL_S, self._order.give_up)

    async def _fingerprint(self, node_id: str, definition: NodeDef, inputs: Mapping[str, Any]) -> Any:
        return await self._nodes.fingerprint(node_id, definition, inputs)

    async def run(self) -> Outcome:
        """Run to the end. A failure of any kind is an outcome, not an exception."""
        self.report.started()
        node_id: str | None = None
        loop = asyncio.get_running_loop()
        try:
            with ExitStack() as surroundings:
                for context in self._hook.comfyk_job_context(job=self.job):
                    surroundings.enter_context(context)
                await self._begin()
                while self._order:
                    node_id = await self._order.next()
                    self._handle.check_interrupted()
                    done = await self._step(node_id)
                    if getattr(loop, "_stopping", False):  # this node's doing, since none other runs
                        raise LoopEnded(
                            "The event loop that nodes run on was ended by this node: it was stopped"
                        )
                    if done:
                        self._order.complete(node_id)
                        self.results.release(node_id)
                        self._cache.relieve()
                    else:
                        self._order.put_back(node_id)
                self._show_intermediate()
            self.report.succeeded()
        except (Interrupted, GivenUpError):
            self.report.interrupted(node_id)
        except ClassGone as error:
            self._fail(error.node_id, error)
        except DependencyCycleError as error:
            # The client's own nodes were checked for cycles: blame one that an expansion added.
            added = (node for node in error.nodes if self.prompt.get_parent_node_id(node) is not None)
            self.report.failed(next(added, error.nodes[0]), error)
        except BaseException as error:
            # Whatever a node raises, SystemExit included, ends the job and not the server.
            if isinstance(error, asyncio.CancelledError) and self._broken_off is not None:
                self._fail(node_id, self._broken_off)
            elif isinstance(error, asyncio.CancelledError) and self._handle.interrupted:
                self.report.interrupted(node_id)
            else:
                self._fail(node_id, error)
        finally:
            with suppress(asyncio.CancelledError):  # its loop ends; how the job ended is known
                await self._nodes.abandon()
        return self.report.outcome

    async def _begin(self) -> None:
        nodes = self.job.prompt
        await self._signatures.add(nodes)
        pairs = {(node_id, node["class_type"]) for node_id, node in nodes.items()}
        self._cache.begin(self._keys_of(nodes), pairs)
        self._objects.begin(pairs)
        self.report.cached([node_id for node_id in nodes if self.results.find(node_id) is not None])
        for target in self.job.targets:
            self._order.add(target)

    def _keys_of(self, node_ids: Iterable[str]) -> set[Key]:
        """The keys of those that have one."""
        return {key for node_id in node_ids if (key := self._signatures.get(node_id)) is not None}

    async def _step(self, node_id: str) -> bool:
        """Take a node further; True when it is done."""
        await self._signatures.resolve(node_id)
        kept = None if self._nodes.has_begun(node_id) else self.results.find(node_id)
        if kept is not None:
            self.results.put(node_id, kept)
            if kept.ui is not None or self.classes.is_output(node_id):
                self.report.show(node_id, kept.ui)
            self.report.done(node_id, was_cached=True)
            return True
        if not self._nodes.has_begun(node_id):
            self.report.begins(node_id)
        match await self._nodes.step(node_id):
            case CacheEntry() as entry:
                self._signatures.settle(node_id)
                self.results.put(node_id, entry)
                self._cache.put(self._signatures[node_id], entry, self._scope(node_id))
                if entry.ui is not None:
                    self.report.show(node_id, entry.ui)
                self.report.done(node_id)
                return True
            case NeedsInputs(names):
                self._signatures.asks(node_id, names)
                for name in names:
                    self._order.require_input(node_id, name)
            case Waits(tasks):
                self._wait_for(node_id, tasks)
            case Expands() as expansion:
                if expansion.ui is not None:
                    self.report.show(node_id, expansion.ui)
                await self._expand(node_id, expansion)
        return False

    def _wait_for(self, node_id: str, tasks: list[asyncio.Future[Any]]) -> None:
        release = self._order.block(node_id)
        left = len(tasks)

        def done(_: asyncio.Future[Any]) -> None:
            nonlocal left
            left -= 1
            if not left:
                release()

        for task in tasks:
            task.add_done_callback(done)

    async def _expand(self, node_id: str, expansion: Expands) -> None:
        """Add the nodes of a subgraph; the node that expanded waits for them."""
        for new_id, node in expansion.nodes.items():
            self._check_added(new_id, node)
        for new_id, node in expansion.nodes.items():
            self.prompt.add_ephemeral_node(new_id, node, node_id, node.get("override_display_id", node_id))
        await self._signatures.add(expansion.nodes)
        scope = Scope(
            self.prompt.get_pair(node_id), self.prompt.get_pair(self.prompt.get_real_node_id(node_id))
        )
        self._cache.expanded(scope, self._keys_of(expansion.nodes))
        outputs = [new_id for new_id in expansion.nodes if self.classes.is_output(new_id)]
        for source in outputs:
            self._order.add(source)
        for source in dict.fromkeys([*outputs, *expansion.sources]):
            self._order.add_link(source, node_id)

    def _check_added(self, node_id: Any, node: Any) -> None:
        """Raises ValueError that says what is wrong with a node of a subgraph."""
        if not isinstance(node_id, str) or not isinstance(node, dict):
            raise ValueError(f"the node expanded to {node_id!r}, which is not an id with a node")
        if self.prompt.has_node(node_id):
            raise ValueError(
                f"the node expanded to the id {node_id!r}, which is taken; GraphBuilder makes ids"
            )
        class_type = node.get("class_type")
        if not isinstance(class_type, str) or self.classes.get(class_type) is None:
            raise ValueError(f"the node expanded to {node_id!r} of the unknown class {class_type!r}")
        if not isinstance(node.setdefault("inputs", {}), dict):
            raise ValueError(f"the node expanded to {node_id!r}, whose inputs are not a dict")

    def _scope(self, node_id: str) -> Scope | None:
        parent = self.prompt.get_parent_node_id(node_id)
        if parent is None:
            return None
        return Scope(
            self.prompt.get_pair(parent), self.prompt.get_pair(self.prompt.get_real_node_id(node_id))
        )

    def _show_intermediate(self) -> None:
        """Show again what kept nodes with intermediate output showed when they ran."""
        for node_id in self.job.prompt:
            if node_id in self.report.executed or self.report.has_shown(node_id):
                continue
            if (
                self.classes.of(node_id).has_intermediate_output
                and (kept := self.results.find(node_id)) is not None
            ):
                self.report.show(node_id, kept.ui)

    def _fail(self, node_id: str | None, error: BaseException) -> None:
        advice: list[str] = []
        inputs = {}
        if node_id is not None:
            inputs = self._nodes.inputs_of(node_id)
            definition = self.classes.get(self.prompt.get_node(node_id)["class_type"])
            if definition is not None:
                advice = self._hook.comfyk_node_failed(node=definition, error=error)
        self.report.failed(node_id, error, inputs=inputs, advice=advice, results=self.results.held())
