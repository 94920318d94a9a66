"""Memory pages behind weights: giving back those of a mapped file, and scratch memory that is quick to get.

A page of a mapped file that was read stays in the process's resident memory until something needs the room. Where a
copy is held as well, that is both at once. `drop_pages` hands such pages back to the kernel at once; the next read
gets them from the file, or from the file cache.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

SMALLEST = 1 << 20
"""Bytes below which the system calls cost more than they give back."""

_PRESENT, _SWAPPED, _FILE_PAGE = (np.uint64(1 << bit) for bit in (63, 62, 61))
"""Bits of an entry of /proc/self/pagemap: the page is resident; it is swapped out, as only written pages are; it is the
file's, not a private copy of it."""


@cache
def _madvise() -> Any | None:
    if sys.platform != "linux":
        return None
    try:
        function = ctypes.CDLL(None, use_errno=True).madvise
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function


def drop_pages(tensor: Tensor) -> int:
    """Hand back the pages that lie wholly within `tensor` and are unchanged pages of a file. Returns the bytes.

    Memory that is no mapped file is left alone, and so is a page that was written to: what was written would be
    lost. Where the system cannot say which is which, nothing is dropped.
    """
    madvise = _madvise()
    if (
        madvise is None
        or tensor.device.type != "cpu"
        or tensor.nbytes < SMALLEST
        or not tensor.is_contiguous()
    ):
        return 0
    size = mmap.PAGESIZE
    first = -(-tensor.data_ptr() // size)
    pages = (tensor.data_ptr() + tensor.nbytes) // size - first
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            pagemap.seek(first * 8)
            entries = np.frombuffer(pagemap.read(pages * 8), dtype=np.uint64)
    except OSError:
        return 0
    if len(entries) != pages:
        return 0
    # Pages that are not resident have no entry worth reading: they have nothing to lose either.
    written = (entries & _PRESENT != 0) & (entries & _FILE_PAGE == 0)
    if np.any(written | (entries & _SWAPPED != 0)):
        return 0
    return pages * size if madvise(first * size, pages * size, mmap.MADV_DONTNEED) == 0 else 0


class _Scratch(threading.local):
    open: int = 0
    memory: Tensor | None = None


_scratch = _Scratch()


@contextmanager
def scratch_memory() -> Iterator[None]:
    """Within it `scratch` gives this thread the same memory again and again.

    Getting fresh pages from the system takes as long as what is done with them here: casting a weight.
    """
    _scratch.open += 1
    try:
        yield
    finally:
        _scratch.open -= 1
        if _scratch.open == 0:
            _scratch.memory = None


def scratch(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor on the CPU for a moment's use: until the next call within the same `scratch_memory`."""
    if _scratch.open == 0:
        return torch.empty(shape, dtype=dtype)
    nbytes = prod(shape) * dtype.itemsize
    if _scratch.memory is None or _scratch.memory.nbytes < nbytes:
        _scratch.memory = None
        with torch.inference_mode(False):  # so that it can be written to in any mode
            _scratch.memory = torch.empty(nbytes, dtype=torch.uint8)
    return _scratch.memory[:nbytes].view(dtype).view(*shape)
