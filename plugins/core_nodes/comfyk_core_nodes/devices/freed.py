"""Memory that was freed, which the C library may keep for what comes next. No torch here.

Every layer of a network gets memory for what it computes and frees it again, tens of megabytes at a time. glibc hands
blocks of that size back to the kernel at once, which then has to clear each page again for the next layer: a tenth of
the time of a VAE on the CPU. So it is told to keep them, until `give_back`. Other C libraries are left as they are.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Parameters of `mallopt`, from glibc's malloc.h."""
_LARGE = 1 << 30


def keep_freed_memory() -> None:
    """Have freed blocks of up to 1 GB kept. To be called before there are other threads: they share what is kept."""
    library = _glibc()
    if library is not None:
        library.mallopt(_MMAP_THRESHOLD, _LARGE)
        library.mallopt(_TRIM_THRESHOLD, 2 * _LARGE - 1)
        library.mallopt(_ARENA_MAX, 1)


def give_back() -> None:
    """Give what is kept back to the kernel; takes milliseconds."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


@cache
def _glibc() -> Any | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
