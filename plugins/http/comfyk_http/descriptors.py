"""How many connections the system's limit of open files leaves room for."""

from __future__ import annotations

import sys

_MOST = 10_000
_KEPT = 64
_LEAST = 8


def connections_that_fit(wanted: int | None) -> int:
    """So many connections may be open: as many as are wanted, if a quarter of all descriptors (at least 64) is left.

    Databases, models and files that are sent need theirs. Without a wish there are at most 10,000.
    """
    limit = _limit()
    room = _MOST if limit is None else max(_LEAST, limit - max(_KEPT, limit // 4))
    return min(room, _MOST if wanted is None else wanted)


def _limit() -> int | None:
    """The limit of open files; None where there is none."""
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
