"""The event loop that the server lives on: uvloop's, which serves a small request in two thirds of asyncio's time."""

from __future__ import annotations

import asyncio
from typing import Literal


def new_event_loop(wanted: Literal["auto", "asyncio", "uvloop"]) -> asyncio.AbstractEventLoop | None:
    """A new loop; None where the kernel's is as good. Raises ImportError when uvloop is wanted and not there."""
    if wanted == "asyncio":
        return asyncio.new_event_loop()
    try:
        import uvloop
    except ImportError as error:
        if wanted == "auto":  # there is none for Windows
            return None
        raise ImportError(
            "http.event_loop is uvloop, which cannot be imported: install it, or set http.event_loop to auto "
            f"({error})"
        ) from error
    return uvloop.new_event_loop()
