"""What other people's coroutines may not do to an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from comfyk.foreign_code import describe, is_ours

T = TypeVar("T")


async def without_exits(awaitable: Awaitable[T]) -> T:
    """Await it; what would end the loop, and all that runs on it, fails this task alone. Raises RuntimeError then."""
    task = asyncio.current_task()
    try:
        return await awaitable
    except SystemExit as error:
        raise RuntimeError(f"it called sys.exit({error.code})") from error
    except (Exception, asyncio.CancelledError):
        raise
    except BaseException as error:
        if is_ours(error) or (isinstance(error, GeneratorExit) and _running() is not task):
            raise  # closed, with a loop that is gone
        raise RuntimeError(f"it raised {describe(error)}") from error


def _running() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
