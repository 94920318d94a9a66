"""`comfyk.toml`: where it is, what it says, on which line it says it, and how one key of it is changed."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comfyk.atomic import write_file
from comfyk.locks import hold_lock

NAME = "comfyk.toml"


@dataclass(slots=True)
class ConfigFile:
    """A configuration file as read; `ConfigFile(None)` says nothing."""

    path: Path | None
    data: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    edited: tuple[str, str] | None = None
    """The section and the key that `changed` has given another value, which is in no file yet."""

    @classmethod
    def read(cls, path: Path) -> ConfigFile:
        """Read a file; one that is not there says nothing.

        Raises ValueError that names the file (and the line) when it is not TOML.
        """
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except FileNotFoundError:
            return cls(path)
        except OSError as error:
            raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: is not UTF-8 text") from error
        try:
            return cls(path, tomllib.loads(text), text)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{path}: is not TOML: {error}") from error

    def changed(self, section: str, name: str, value: Any) -> ConfigFile:
        """The file with another value for one key, or without it (None); all else stays as it is written.

        Raises ValueError, which says so, when this file is written in a way that does not allow it.
        """
        import tomlkit
        from tomlkit.exceptions import TOMLKitError
        from tomlkit.items import Array

        before = self.data.get(section, {})
        wanted = (
            {key: kept for key, kept in before.items() if key != name} if isinstance(before, dict) else {}
        )
        if value is not None:
            wanted[name] = value
        elif wanted == before:
            return self
        try:
            document = tomlkit.parse(self.text)
            table: Any = document.setdefault(section, tomlkit.table())
            if value is None:
                if name in table:
                    del table[name]
            elif isinstance(known := table.get(name), Array) and isinstance(value, list):
                _change_array(known, value)
            else:
                table[name] = toml_item(value)
            text = tomlkit.dumps(document)
            data = tomllib.loads(text)
        except (TOMLKitError, tomllib.TOMLDecodeError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{self.path}: {section}.{name} cannot be changed: {error}") from error
        if data != {**self.data, section: wanted}:  # whatever the layout was, nothing else may change
            raise ValueError(
                f"{self.path}: {section}.{name} cannot be changed in this layout, edit it by hand"
            )
        return ConfigFile(self.path, data, text, (section, name))

    def write(self) -> None:
        """Replace the file as a whole. Raises OSError."""
        assert self.path is not None
        write_file(self.path, self.text)

    def where(self, key: Sequence[str]) -> str:
        """`comfyk.toml, line 3`: the file and the line on which `key` is given."""
        if self.edited is not None and tuple(key[:2]) == self.edited:
            return "the new value"
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


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from changing the file; read it within this. Raises OSError."""
    target = path.resolve()
    with hold_lock(target.with_name(f".{target.name}.lock")):
        yield


def toml_item(value: Any) -> Any:
    """A plain value as it is written in one line. Raises ValueError for what TOML has no form for."""
    import tomlkit

    if isinstance(value, list):
        array = tomlkit.array()
        for one in value:
            array.append(toml_item(one))
        return array
    if isinstance(value, Mapping):
        table = tomlkit.inline_table()
        table.update({key: toml_item(one) for key, one in value.items()})
        return table
    return tomlkit.item(value)


def _change_array(array: Any, wanted: list[Any]) -> None:
    """Make an array hold these values; those that stay keep their places and comments."""
    for index in reversed(range(len(array))):
        if array[index] not in wanted:
            del array[index]
    for one in wanted:
        if one not in array:
            array.append(toml_item(one))
    if list(array) != wanted:
        array.clear()
        for one in wanted:
            array.append(toml_item(one))


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
