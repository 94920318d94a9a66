"""An app of the kernel alone: no plugin, jobs in memory, the nodes that the test registers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from comfyk.app import App
from comfyk.events import Event
from comfyk.jobs.model import Outcome
from comfyk.plugins import Plugins
from comfyk.settings import load_settings


@dataclass
class Kernel:
    """A running app, and what it has told."""

    app: App
    events: list[Event] = field(default_factory=list)

    async def run(self, prompt: dict[str, Any], **options: Any) -> Outcome:
        """Submit a prompt and wait for its end."""
        options.setdefault("extra_data", {"client_id": "test"})
        submission = await self.app.jobs.submit(prompt, **options)
        return await self.app.jobs.wait(submission.job.id)

    def messages(self, *types: str) -> list[tuple[str, dict[str, Any]]]:
        """What clients were told, in order."""
        return [
            (event.type, event.data())
            for event in self.events
            if event.type in (types or (event.type,)) and event.type
        ]

    def ran(self) -> list[str]:
        """The nodes that were executed, in order."""
        return [data["node"] for _, data in self.messages("executing") if data["node"] is not None]


@pytest.fixture
async def kernel(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """`await kernel(NodeA, NodeB, cache="lru", plugins=[...])` starts an app with these nodes."""
    async with AsyncExitStack() as stack:

        async def start(*nodes: type, plugins: list[object] | None = None, **execution: Any) -> Kernel:
            return await stack.enter_async_context(_running(tmp_path, nodes, plugins or [], execution))

        yield start


@asynccontextmanager
async def _running(
    base: Path, nodes: tuple[type, ...], plugins: list[object], execution: dict[str, Any]
) -> AsyncIterator[Kernel]:
    loaded = Plugins()
    for index, plugin in enumerate(plugins):
        loaded.register(plugin, f"plugin{index}")
    overrides = {"folders.base": str(base)} | {f"execution.{key}": value for key, value in execution.items()}
    app = App(load_settings(loaded, overrides=overrides), loaded)
    for node in nodes:
        app.nodes.add(node)
    async with app:
        running = Kernel(app)
        app.events.subscribe(running.events.append)
        yield running
