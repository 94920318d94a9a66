"""The last lines of the log, and what is printed, for the web UI's log panel.

There is one log in a process, so this is one too: it is kept from the moment that nodes are registered.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Any, TextIO

from comfyk.logs import LineFormatter

KEPT = 300

Entry = dict[str, str]
"""`t`: when, in ISO format; `m`: what, with the line's end."""


def in_milliseconds(time: str) -> int:
    """An entry's time as milliseconds since the epoch."""
    return round(datetime.fromisoformat(time).timestamp() * 1000)


class ServerLog(logging.Handler):
    """Keeps the last entries, and tells listeners of new ones, in the thread that wrote them."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(LineFormatter("[%(levelname)s] %(message)s"))
        self._entries: deque[Entry] = deque(maxlen=KEPT)
        self._listeners: list[Callable[[Entry], None]] = []

    def entries(self) -> list[Entry]:
        return list(self._entries)

    def listen(self, listener: Callable[[Entry], None]) -> Callable[[], None]:
        """Call `listener` with each new entry; it must not block. Returns what ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def start(self) -> None:
        """Keep what is logged from now on; once is enough."""
        root = logging.getLogger()
        if self not in root.handlers:
            root.addHandler(self)

    def stop(self) -> None:
        """Keep nothing more; what was kept stays."""
        logging.getLogger().removeHandler(self)

    def watch_prints(self) -> None:
        """Keep what is printed too: most packs print what others log."""
        for name in ("stdout", "stderr"):
            if not isinstance(stream := getattr(sys, name), _Tee):
                setattr(sys, name, _Tee(stream, self))

    def unwatch_prints(self) -> None:
        """Put the streams back, unless somebody else has replaced them since."""
        for name in ("stdout", "stderr"):
            if isinstance(stream := getattr(sys, name), _Tee):
                setattr(sys, name, stream.watched)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.add(f"{self.format(record)}\n")
        except Exception:
            self.handleError(record)

    def add(self, text: str) -> None:
        """Keep a piece of text. One that begins with `\\r` takes the place of an unfinished line."""
        entry = {"t": datetime.now().isoformat(), "m": text}
        last = self._entries[-1] if self._entries else None
        if text.startswith("\r") and last is not None and not last["m"].endswith("\n"):
            self._entries.pop()
        self._entries.append(entry)
        for listener in tuple(self._listeners):
            listener(entry)


class _Tee:
    """A stream whose text is kept as well; in all else it is the stream."""

    _inside = threading.local()

    def __init__(self, stream: TextIO, log: ServerLog) -> None:
        self.watched = stream
        self._log = log

    def write(self, text: str) -> int:
        written = self.watched.write(text)
        if text and not getattr(self._inside, "busy", False):  # a listener may print in turn
            self._inside.busy = True
            try:
                self._log.add(text)
            finally:
                self._inside.busy = False
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self.watched, name)


SERVER_LOG = ServerLog()
