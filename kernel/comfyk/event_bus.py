"""The bus that carries events from any thread to listeners on the app's event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable

from comfyk.events import Event
from comfyk.foreign_code import is_ours

log = logging.getLogger(__name__)

Listener = Callable[[Event], None]


class EventBus:
    """Carries events from any thread to listeners on the loop.

    A burst of events wakes the loop once. A listener that raises is logged and the others still hear.
    """

    def __init__(self) -> None:
        self._listeners: list[tuple[Listener, tuple[type[Event], ...]]] = []
        self._listeners_of: dict[type[Event], tuple[Listener, ...]] = {}
        """Who hears events of just this type; made when one comes."""
        self._waiting: deque[Event | Callable[[], None]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._scheduled = False
        self._uncork: asyncio.TimerHandle | None = None

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver on this loop, which runs in the calling thread, from now on."""
        self._loop = loop
        self._thread = threading.get_ident()

    def subscribe(self, listener: Listener, *types: type[Event]) -> Callable[[], None]:
        """Call `listener` with each event (of these types), on the loop; it must not block. Returns what ends it."""
        entry = (listener, types or (Event,))
        self._listeners.append(entry)
        self._listeners_of.clear()

        def unsubscribe() -> None:
            self._listeners.remove(entry)
            self._listeners_of.clear()

        return unsubscribe

    def emit(self, event: Event) -> None:
        """Hand an event over, from any thread. Without a loop (yet) it waits for one."""
        self._waiting.append(event)
        self._wake()

    def call(self, function: Callable[[], None]) -> None:
        """Call a function on the loop, after the events that were emitted before."""
        self._waiting.append(function)
        self._wake()

    def _wake(self) -> None:
        if self._scheduled or self._uncork is not None or self._loop is None:
            return
        self._scheduled = True
        try:
            if threading.get_ident() == self._thread:
                self._loop.call_soon(self.deliver)
            else:
                self._loop.call_soon_threadsafe(self.deliver)
        except RuntimeError:  # the loop is closed: nobody listens any more
            self._scheduled = False

    def cork(self, seconds: float) -> None:
        """Let events gather for a moment, or until `uncork`. Call it on the loop.

        What another thread does in that moment then costs the loop no wakeup: the two would only take turns at
        the interpreter.
        """
        if self._loop is not None and self._uncork is None:
            self._uncork = self._loop.call_later(seconds, self.uncork)

    def uncork(self) -> None:
        """Deliver what has gathered. Call it on the loop."""
        if self._uncork is not None:
            self._uncork.cancel()
            self._uncork = None
        self.deliver()

    def deliver(self) -> None:
        """Hand all waiting events to the listeners now. Call it on the loop only."""
        self._scheduled = False
        while self._waiting:
            event = self._waiting.popleft()
            if not isinstance(event, Event):
                try:
                    event()
                except BaseException as error:
                    if is_ours(error):
                        raise
                    log.exception("a function failed that was to be called on the loop")
                continue
            listeners = self._listeners_of.get(type(event))
            if listeners is None:
                listeners = tuple(listener for listener, types in self._listeners if isinstance(event, types))
                self._listeners_of[type(event)] = listeners
            for listener in listeners:
                try:
                    listener(event)
                except BaseException as error:  # of a plugin, perhaps: it would end the loop
                    if is_ours(error):
                        raise
                    log.exception("a listener failed on the event %r", event.type)
