"""Ctrl-C, which can be told from a `KeyboardInterrupt` that foreign code raises. Imports next to nothing."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class CtrlC(KeyboardInterrupt):
    """Somebody at the keyboard wants the program to end."""


def interrupt(signum: int, frame: FrameType | None) -> None:
    """The handler of SIGINT in every command."""
    raise CtrlC


def listen() -> None:
    """Let SIGINT raise CtrlC, where Python's own handler is in place."""
    own = threading.current_thread() is threading.main_thread()
    if own and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
