"""comfyk: a server for generative workflows. These are the names that a plugin or a node pack works with.

The public modules beside this one: `comfyk.io` and `comfyk.ui` (writing nodes), `comfyk.api` (routes), `comfyk.events`,
`comfyk.settings`, `comfyk.folders`, `comfyk.jobs` (jobs, stores, executors), `comfyk.execution` (caches),
`comfyk.graph`, `comfyk.workflows` (of the web UI), `comfyk.nodes`, `comfyk.packs`, `comfyk.tasks`, `comfyk.database`,
`comfyk.doctor`, `comfyk.atomic`, `comfyk.locks`, `comfyk.logs` (lines of the log), `comfyk.foreign_code` (calling what
others wrote) and `comfyk.wire` (JSON). What they do not name in `__all__` is the kernel's own, and may change in any
version.
"""

from typing import TYPE_CHECKING, Any

from comfyk.context import Interrupted, check_interrupted, current_app, current_call, progress, progress_text
from comfyk.hooks import hookimpl, hookspec

if TYPE_CHECKING:
    from comfyk.app import App
    from comfyk.commands.session import Session
    from comfyk.plugins import Plugins

__version__ = "0.1.0"

__all__ = [
    "App",
    "Interrupted",
    "Plugins",
    "Session",
    "__version__",
    "check_interrupted",
    "current_app",
    "current_call",
    "hookimpl",
    "hookspec",
    "progress",
    "progress_text",
]

_LATER = {"App": "comfyk.app", "Plugins": "comfyk.plugins", "Session": "comfyk.commands.session"}
"""Names that a plugin mostly needs as types: their modules are imported when they are asked for."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LATER[name]), name)
