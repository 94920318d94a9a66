"""What `comfyk run` shows while it runs: a progress bar on a terminal, else a line for each node."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from comfyk.events import Event, Executing, ExecutionCached, Progress, ProgressState

Show = Callable[[Event], None]


@contextmanager
def display(prompt: Mapping[str, Any], *, quiet: bool) -> Iterator[Show]:
    """Give a listener for the job's events. Everything goes to standard error."""
    if quiet:
        yield lambda event: None
    elif sys.stderr.isatty():
        with _bars(prompt) as show:
            yield show
    else:
        yield _Lines(prompt)


def label(prompt: Mapping[str, Any], node_id: str) -> str:
    """`KSampler (3)`."""
    node = prompt.get(node_id)
    return f"{node['class_type']} ({node_id})" if node else node_id


class _Lines:
    def __init__(self, prompt: Mapping[str, Any]) -> None:
        self._prompt = prompt
        self._begun: set[str] = set()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Executing) and event.node is not None:
            node_id = event.display_node or event.node
            if node_id not in self._begun:
                self._begun.add(node_id)
                count = f"{len(self._begun)}/{len(self._prompt)}"
                click.echo(f"[{count}] {label(self._prompt, node_id)}", err=True)


@contextmanager
def _bars(prompt: Mapping[str, Any]) -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        overall = bars.add_task("workflow", total=len(prompt))
        node_bar = bars.add_task("", total=None, visible=False)
        done: set[str] = set()

        def show(event: Event) -> None:
            if isinstance(event, ExecutionCached):
                done.update(event.nodes)
            elif isinstance(event, ProgressState):
                done.update(node.node_id for node in event.nodes.values() if node.state == "finished")
            elif isinstance(event, Executing) and event.node is not None:
                name = label(prompt, event.display_node or event.node)
                bars.reset(node_bar, description=name, total=None, visible=True)
            elif isinstance(event, Progress):
                bars.update(node_bar, completed=event.value, total=event.max)
            bars.update(overall, completed=len(done & prompt.keys()))

        yield show
