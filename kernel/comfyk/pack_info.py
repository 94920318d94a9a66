"""One pack as it is known: its name, its place, and what became of it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from comfyk.atomic import write_file

PACKS_FILE = "comfyk/packs.json"
"""In the user folder: what became of the packs at the latest start of a server, and since."""

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
    reason: str = ""
    """Why it failed or is left out, in one line."""
    nodes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    """How long it took to load."""

    @property
    def source(self) -> str:
        """What its nodes are registered as being from: `custom_nodes.NAME`, `python_module` in `object_info`."""
        return pack_source(self.name)


def save_packs(file: Path, infos: Iterable[PackInfo]) -> None:
    """Write what became of the packs, for another process to show."""
    write_file(file, json.dumps([pack_as_dict(info) for info in infos], indent=1))


def load_packs(file: Path) -> list[PackInfo]:
    """What `save_packs` wrote; empty when there is nothing that can be read."""
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        return [PackInfo(**{**one, "path": Path(one["path"])}) for one in saved]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def pack_as_dict(info: PackInfo) -> dict[str, Any]:
    """A pack as JSON."""
    return {**asdict(info), "path": str(info.path)}


def pack_name(path: Path) -> str:
    """The name of the pack at a path: `custom_nodes/foo`, `foo.py` and `foo.disabled` are all `foo`."""
    return path.name.removesuffix(".disabled").removesuffix(".py")


def pack_source(name: str) -> str:
    """What a pack's nodes are registered as being from (`python_module` in `object_info`)."""
    return f"custom_nodes.{name}"
