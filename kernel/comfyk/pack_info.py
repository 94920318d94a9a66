"""One pack as it is known: its name, its place, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

PackState = Literal["loading", "loaded", "failed", "disabled"]


@dataclass(slots=True)
class PackInfo:
    """One pack, and what became of it."""

    name: str
    """The folder's or file's name, without `.py`."""
    path: Path
    state: PackState = "loading"
    error: str = ""
    """Why it failed, with the traceback, or why a plugin does not let it load; also what went wrong in a pack that
    loaded all the same."""
    nodes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    """How long it took to load."""

    @property
    def source(self) -> str:
        """What its nodes are registered as being from: `custom_nodes.NAME`, `python_module` in `object_info`."""
        return pack_source(self.name)


def pack_name(path: Path) -> str:
    """The name of the pack at a path: `custom_nodes/foo`, `foo.py` and `foo.disabled` are all `foo`."""
    return path.name.removesuffix(".disabled").removesuffix(".py")


def pack_source(name: str) -> str:
    """What a pack's nodes are registered as being from (`python_module` in `object_info`)."""
    return f"custom_nodes.{name}"
