"""How far the nodes of running jobs are, on the console: a bar where that is a terminal, else lines in the log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from comfyk.events import Event, JobEnded, Progress

log = logging.getLogger("comfyk.progress")

_LINE_EVERY_S = 10.0
"""How often a line tells how far a node is."""
_WORTH_A_LINE_S = 0.1
"""A node that took less, with all of its steps, is not told of."""
_BAR_EVERY_S = 0.1
_BAR_WIDTH = 24
_MOST = 1000
"""Nodes that are kept in mind: those of a job whose end was not heard of are forgotten."""


@dataclass(slots=True)
class _Node:
    began: float
    told: float
    value: float = 0
    done: bool = False


class ProgressLog:
    """Hears `Progress` and `JobEnded` events, in order, on one thread."""

    def __init__(
        self,
        class_of: Callable[[str, str], str | None],
        terminal: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`class_of(job_id, node_id)` names a node; with a `terminal` there is a bar on it."""
        self._class_of = class_of
        self._terminal = terminal
        self._clock = clock
        self._nodes: dict[tuple[str, str], _Node] = {}
        self._bar = 0
        """How long the bar is that the cursor stands behind; 0: there is none."""

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progress):
            self._step(event)
        elif isinstance(event, JobEnded):
            self._clear_bar()
            for key in [key for key in self._nodes if key[0] == event.job_id]:
                del self._nodes[key]

    def _step(self, event: Progress) -> None:
        now = self._clock()
        key = (event.job_id, event.node)
        node = self._nodes.get(key)
        if node is None or event.value < node.value:  # a node may have several loops
            if len(self._nodes) >= _MOST:
                self._nodes.clear()
            node = self._nodes[key] = _Node(now, now)
        node.value = event.value
        if node.done or event.max <= 0:
            return
        if event.value >= event.max:
            node.done = True
            self._clear_bar()
            if now - node.began >= _WORTH_A_LINE_S:
                log.info("%s", self._line(event, now - node.began))
            return
        if self._terminal is not None:
            if now - node.told >= _BAR_EVERY_S:
                node.told = now
                self._draw_bar(event, now - node.began)
        elif now - node.told >= _LINE_EVERY_S:
            node.told = now
            log.info("%s", self._line(event, now - node.began))

    def _line(self, event: Progress, seconds: float) -> str:
        """`KSampler (3): 12 of 20, 6.1 s, 1.97 a second`"""
        name = self._class_of(event.job_id, event.node)
        label = f"{name} ({event.node})" if name else f"node {event.node}"
        rate = f", {event.value / seconds:.2f} a second" if seconds > 0 else ""
        return f"{label}: {event.value:g} of {event.max:g}, {seconds:.1f} s{rate}"

    def _draw_bar(self, event: Progress, seconds: float) -> None:
        part = min(1.0, max(0.0, event.value / event.max))
        filled = round(part * _BAR_WIDTH)
        bar = "#" * filled + "-" * (_BAR_WIDTH - filled)
        text = f"[{bar}] {part:4.0%} {self._line(event, seconds)}"
        padded = text.ljust(self._bar)
        self._bar = len(text)
        self._write(f"\r{padded}")

    def _clear_bar(self) -> None:
        if self._bar:
            self._write(f"\r{' ' * self._bar}\r")
            self._bar = 0

    def _write(self, text: str) -> None:
        if self._terminal is None:
            return
        try:
            self._terminal.write(text)
            self._terminal.flush()
        except (OSError, ValueError):  # the terminal is gone
            self._terminal = None
            self._bar = 0


def terminal() -> TextIO | None:
    """Where a bar can be drawn: standard error, if somebody looks at it."""
    stream = sys.stderr
    return stream if stream is not None and stream.isatty() and log.isEnabledFor(logging.INFO) else None
