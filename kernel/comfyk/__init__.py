"""comfyk: a server for generative workflows. These are the names that a plugin or a node pack works with."""

from comfyk.context import check_interrupted, current_app, current_call, progress, progress_text
from comfyk.hooks import hookimpl, hookspec

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "check_interrupted",
    "current_app",
    "current_call",
    "hookimpl",
    "hookspec",
    "progress",
    "progress_text",
]
