"""Where the log goes: the console and files, each with its level, and third-party chatter turned down."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfyk.kernel_settings import LogSettings

DETAIL = 15
"""Between DEBUG and INFO, as ComfyUI has it."""

_CHATTY = ("aiohttp.access", "alembic", "asyncio", "git", "httpcore", "httpx", "matplotlib", "numba", "PIL",
           "sqlalchemy", "urllib3")  # fmt: skip

_installed: list[logging.Handler] = []


def setup_logging(settings: LogSettings) -> None:
    """Send the log where the settings say; a second call replaces the first. Raises OSError."""
    logging.addLevelName(DETAIL, "DETAIL")
    level: int = logging.getLevelName(settings.level)
    console: list[logging.Handler] = []
    if settings.stdout:
        errors = logging.StreamHandler(sys.stderr)
        errors.setLevel(logging.ERROR)
        normal = logging.StreamHandler(sys.stdout)
        normal.addFilter(lambda record: record.levelno < logging.ERROR)
        console = [normal, errors]
    else:
        console = [logging.StreamHandler(sys.stderr)]
    for handler in console:
        handler.setLevel(max(handler.level, level))
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    files: list[logging.Handler] = []
    for file in settings.files:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(file.path, encoding="utf-8")
        handler.setLevel(file.level)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
        files.append(handler)
    _install([*console, *files], min(handler.level for handler in [*console, *files]))
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


class _Brief(logging.Formatter):
    def formatException(self, ei: object) -> str:
        return ""


def brief_logging() -> None:
    """Warnings only, without time and traceback: for commands that do something and end."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Brief("%(message)s"))
    _install([handler], logging.WARNING)


def _install(handlers: list[logging.Handler], level: int) -> None:
    root = logging.getLogger()
    for handler in _installed:
        root.removeHandler(handler)
        handler.close()
    _installed[:] = handlers
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
