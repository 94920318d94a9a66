"""`comfyk.toml`: where it is, what it says, and on which line it says it."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAME = "comfyk.toml"


@dataclass(slots=True)
class ConfigFile:
    """A configuration file as read; `ConfigFile(None)` says nothing."""

    path: Path | None
    data: dict[str, Any] = field(default_factory=dict)
    text: str = ""

    @classmethod
    def read(cls, path: Path) -> ConfigFile:
        """Read a file. Raises ValueError that names the file (and the line) when it is not TOML."""
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except OSError as error:
            raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: is not UTF-8 text") from error
        try:
            return cls(path, tomllib.loads(text), text)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{path}: is not TOML: {error}") from error

    def where(self, key: Sequence[str]) -> str:
        """`comfyk.toml, line 3`: the file and the line on which `key` is given."""
        line = self._line(key)
        return f"{self.path}, line {line}" if line else str(self.path)

    def _line(self, key: Sequence[str]) -> int | None:
        # The key begins on the line after the last one up to which the file is TOML without it. That is slow,
        # and right for every way to write a key; it runs only to explain an error.
        lines = self.text.splitlines(keepends=True)
        before = 0
        for count in range(1, len(lines) + 1):
            try:
                data = tomllib.loads("".join(lines[:count]))
            except tomllib.TOMLDecodeError:
                continue
            if _holds(data, key):
                return before + 1
            before = count
        return None


def _holds(data: Any, key: Sequence[str]) -> bool:
    for name in key:
        if not isinstance(data, Mapping) or name not in data:
            return False
        data = data[name]
    return True


def config_path(given: str | None, base: Path) -> Path:
    """The file to read: the one given, else `COMFYK_CONFIG`, else `comfyk.toml` in the base directory.

    The last need not exist. Raises FileNotFoundError when one of the others does not.
    """
    for source, value in (("--config", given), ("COMFYK_CONFIG", os.environ.get("COMFYK_CONFIG"))):
        if value:
            path = Path(value).expanduser().absolute()
            if not path.is_file():
                raise FileNotFoundError(f"{source}: there is no file {path}")
            return path
    return base.expanduser().absolute() / NAME
