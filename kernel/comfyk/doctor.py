"""What a finding of `comfyk doctor` is, for plugins to return in `comfyk_doctor`.

What the kernel itself finds is in `comfyk.diagnosis`, the command in `comfyk.commands.doctor`.
"""

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
