"""One plugin as it is known: its name, its state, and what went wrong in it, also at the latest start."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

ERRORS_FILE = "comfyk/plugin-errors.json"
"""In the user folder: what went wrong in plugins since the latest start of a server."""

PluginState = Literal["enabled", "disabled", "failed"]


@dataclass(frozen=True, slots=True)
class PluginError:
    """The latest error of one hook; `hook` is `import` when the plugin did not load at all."""

    hook: str
    message: str
    traceback: str = ""


@dataclass(slots=True)
class PluginInfo:
    """One plugin as `comfyk plugin list` shows it."""

    name: str
    state: PluginState
    module: str = ""
    distribution: str = ""
    version: str = ""
    hooks: list[str] = field(default_factory=list)
    errors: list[PluginError] = field(default_factory=list)


def load_errors(file: Path) -> dict[str, list[PluginError]]:
    """What `save_errors` wrote; empty when there is nothing that can be read."""
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        return {name: [PluginError(**error) for error in errors] for name, errors in saved.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
