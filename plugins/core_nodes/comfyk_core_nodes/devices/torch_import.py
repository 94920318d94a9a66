"""Whether torch is there, without importing it: the server answers before torch is."""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def loaded_torch() -> Any | None:
    """torch when its import is through, None before. It may be under way in another thread."""
    torch = sys.modules.get("torch")
    if torch is None or getattr(torch.__spec__, "_initializing", False):
        return None
    return torch


@cache
def torch_version() -> str | None:
    """The version of the torch that is installed, without importing it."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return None
