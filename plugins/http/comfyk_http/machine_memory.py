"""How much memory this process may have: what the machine has, a container's limit, or the process's own; giving back
what it does not need.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def memory_limit() -> int:
    """In bytes. May block for a moment."""
    import psutil

    return min([psutil.virtual_memory().total, *_of_cgroups(), *_of_process()])


def _of_process() -> list[int]:
    if sys.platform == "win32":
        return []
    import resource

    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    return [limit for limit in limits if limit != resource.RLIM_INFINITY]


def _of_cgroups() -> list[int]:
    """The limits of the control groups that the process is in, of either version."""
    found = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            root, name = _CGROUPS, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = _CGROUPS / "memory", "memory.limit_in_bytes"
        else:
            continue
        folder = root / group.lstrip("/")
        for place in (folder, *folder.parents):
            found += _number(place / name)
            if place == root:
                break
    return found


def _number(file: Path) -> list[int]:
    try:
        text = file.read_text().strip()
    except OSError:
        return []
    return [int(text)] if text.isdecimal() else []


def give_memory_back() -> None:
    """Have the allocator return what is free to the system; glibc's keeps it otherwise."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
