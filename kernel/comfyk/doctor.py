"""What `comfyk doctor` finds: plugins return these in `comfyk_doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "Finding",
    "Severity",
]

Severity = Literal["info", "warning", "error"]
"""`error`: something does not work; `warning`: something will not, or is not safe; `info`: good to know."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with an installation."""

    severity: Severity
    message: str
    """What is wrong, with what."""
    remedy: str = ""
    """What to do about it, as the user is to read it: a command, a setting."""
