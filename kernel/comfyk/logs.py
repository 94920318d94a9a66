"""Where the log goes: the console and files, each with its level, and third-party chatter turned down.

A record is one line of printable text. Paths, names and headers that others send cannot end a line, begin one that
looks like another record, or steer the terminal. A traceback follows on lines of its own, which begin with a bar.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from comfyk.kernel_settings import LogSettings

__all__ = ["LineFormatter", "printable"]

DETAIL = 15
"""Between DEBUG and INFO, as ComfyUI has it."""

_CHATTY = ("aiohttp.access", "alembic", "asyncio", "git", "httpcore", "httpx", "matplotlib", "numba", "PIL",
           "sqlalchemy", "urllib3")  # fmt: skip

_LONGEST = 16_384
"""Characters of a line; what is longer is cut, and says how much is missing."""
_BAR = "    | "
_UNPRINTABLE = re.compile(
    # Controls (with DEL and C1), separators of lines, marks that turn the direction of text, halves of surrogate pairs.
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
)

_installed: list[logging.Handler] = []


def printable(text: str) -> str:
    """The text on one line: what cannot be printed is written as an escape, such as `\\n`."""
    if text.isprintable():
        return text
    return _UNPRINTABLE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


class LineFormatter(logging.Formatter):
    """Writes each record on one line, and its traceback below it."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line without its traceback. A format of several lines (`"it failed\\n%s"`) is what its author wants."""
        text = super().formatMessage(record)
        if record.args and "\n" in str(record.msg):
            text, _, more = text.partition("\n")
            return f"{_line(text)}\n{_barred(more)}"
        return _line(text)

    def formatException(self, ei: Any) -> str:
        """The traceback; its text is as foreign as a message."""
        return _barred(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        """The stack that the author of the record asked for."""
        return _barred(super().formatStack(stack_info))


def _line(text: str) -> str:
    text = printable(text)
    return (
        text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text) - _LONGEST:,} more characters)"
    )


def _barred(text: str) -> str:
    return "\n".join(_BAR + _line(line) for line in text.rstrip("\n").split("\n"))


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
        handler.setFormatter(LineFormatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    files: list[logging.Handler] = []
    for file in settings.files:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(file.path, encoding="utf-8")
        handler.setLevel(file.level)
        handler.setFormatter(LineFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
        files.append(handler)
    _install([*console, *files], min(handler.level for handler in [*console, *files]))
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


class _Brief(LineFormatter):
    def formatException(self, ei: Any) -> str:
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
