"""The files of weights that are mapped now, and whether they still are what they were.

Another program may write over a file while it is mapped. What had been read of it is then a mix of old and new, and
where it got shorter there is nothing, which `bus_errors` turns into zeros. Neither may become a picture:
`check_unchanged` is for those who are about to use weights, `check_all_there` for those who have used some. A file
that is replaced by another of its name, as downloads and most programs do it, stays as it was for who has it mapped.
"""

from __future__ import annotations

import mmap
import threading
import weakref
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from comfyk_core_nodes.weights.bus_errors import Guard, guard
from comfyk_core_nodes.weights.file_error import ModelFileError
from comfyk_core_nodes.weights.file_identity import Identity, identity_of, note_damage

_EXPECTED = "the file as it was when it was loaded"


@dataclass(eq=False)
class _Mapped:
    path: Path
    first: int
    end: int
    """Addresses: the first byte's, and the one after the last."""
    slot: int
    identity: Identity
    told: bool = False

    def changed(self) -> str | None:
        """What became of the file, where its mapping is not what it was."""
        if _guarded().hit(self.slot):
            return "one that got shorter, or cannot be read any more; run the workflow again"
        try:
            now = identity_of(self.path)
        except OSError:
            return None  # deleted: what is mapped stays
        if now.file == self.identity.file and now != self.identity:
            return "one that another program wrote to since; run the workflow again"
        return None


_mapped: dict[int, _Mapped] = {}
"""By slot of the guard."""
_lock = threading.Lock()


def _guarded() -> Guard:
    found = guard()
    assert found is not None, "nothing is mapped here without a guard"
    return found


def can_map() -> bool:
    """Whether `map_file` works on this system."""
    return guard() is not None


def map_file(file: BinaryIO, path: Path) -> Tensor | None:
    """The bytes of a file, uint8 `[size]`; None where no more can be mapped safely. Raises OSError, ValueError.

    The mapping is the process's own: what is written to the tensor is not written to the file.
    """
    watching = guard()
    if watching is None:
        return None
    identity = identity_of(file.fileno())
    memory = mmap.mmap(file.fileno(), identity.size, access=mmap.ACCESS_COPY)
    content = torch.frombuffer(memory, dtype=torch.uint8)
    first = content.data_ptr()
    slot = watching.add(first, first + identity.size)
    if slot is None:
        return None
    with _lock:
        _mapped[slot] = _Mapped(path, first, first + identity.size, slot, identity)
    weakref.finalize(memory, _forget, watching, slot).atexit = False
    return content


def mapping_start(address: int) -> int:
    """Where the file that is mapped at an address begins. Raises OSError, ValueError."""
    with open("/proc/self/maps", encoding="ascii", errors="replace") as maps:
        for line in maps:
            span, _, offset, *_ = line.split()
            first, end = (int(bound, 16) for bound in span.split("-"))
            if first <= address < end:
                return first - int(offset, 16)
    raise ValueError(f"nothing is mapped at {address:#x}")


def _forget(watching: Guard, slot: int) -> None:
    # Called by the garbage collector, on whatever thread it runs and maybe within the lock: it takes none.
    _mapped.pop(slot, None)
    watching.remove(slot)


def check_unchanged(weights: Iterable[Tensor]) -> None:
    """Raise ModelFileError when a file that one of these tensors lies in was written to since it was mapped."""
    files = sorted(_mapped.values(), key=lambda file: file.first)
    if not files:
        return
    starts = [file.first for file in files]
    used: set[_Mapped] = set()
    for tensor in weights:
        if tensor.device.type == "cpu" and tensor.layout == torch.strided:
            address = tensor.data_ptr()
            at = bisect_right(starts, address) - 1
            if at >= 0 and address < files[at].end:
                used.add(files[at])
    for file in used:
        if (found := file.changed()) is not None:
            _tell(file)
            raise ModelFileError(file.path, _EXPECTED, found)


def check_all_there() -> None:
    """Raise ModelFileError when something touched what a mapped file does not have any more, and got zeros.

    Each file is told of once: whoever is told has to drop what came of it.
    """
    for slot, file in list(_mapped.items()):
        if not file.told and _guarded().hit(slot):
            _tell(file)
            raise ModelFileError(file.path, _EXPECTED, file.changed() or "another")


def _tell(file: _Mapped) -> None:
    file.told = True
    note_damage(file.path)
