"""Where settings come from: the file, the environment and the command line, and who said what.

Each source is a layer: section -> field -> value as it was given. `Layers` reads them, takes out what no
section knows, and explains a validation error by the source that caused it.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import types
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource

from comfyk.config_file import ConfigFile

log = logging.getLogger(__name__)

ENV_PREFIX = "COMFYK_"


class SettingsError(Exception):
    """Everything that is wrong with the settings, one line each: where, which key, and what is allowed."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(problems))


@dataclass(frozen=True, slots=True)
class Override:
    """A value from the command line, with the words that gave it."""

    value: Any
    source: str


@dataclass(frozen=True, slots=True)
class Formerly:
    """The key that a field had before: `Annotated[int, Formerly("server.port")]`.

    What a source gives under it counts for the field, where that source does not give the new key too.
    """

    key: str


class _Environment(EnvSettingsSource):
    """`COMFYK_SECTION__FIELD`, with lists also as `a,b`."""

    def decode_complex_value(self, field_name: str, field: FieldInfo | None, value: Any) -> Any:
        return value if field is None else parse_text(field.annotation, value)


def parse_text(annotation: Any, text: str) -> Any:
    """Read a value that came as text: JSON (or `a,b`) for lists and tables; pydantic reads the rest."""
    kinds = {get_origin(kind) or kind for kind in _members(annotation)}
    if type(None) in kinds and text == "null":
        return None
    tables = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, (BaseModel, dict))]
    lists = kinds & {list, set, tuple, frozenset}
    if (lists and text.lstrip().startswith("[")) or (tables and text.lstrip().startswith("{")):
        try:
            return json.loads(text)
        except ValueError:
            return text
    if lists:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _members(annotation: Any) -> Iterator[Any]:
    """The types that an annotation allows: `int | None` -> int, NoneType."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _members(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    else:
        yield annotation


def holds_path(annotation: Any) -> bool:
    return annotation is Path or any(holds_path(argument) for argument in get_args(annotation))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'port'?`, or nothing when nothing known is close."""
    close = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def no_section(name: str, known: Iterable[str]) -> str:
    """That there is no such section, and which there are."""
    known = sorted(known)
    return (
        f"there is no section {name!r}{did_you_mean(name, known) or ';'} the sections are {', '.join(known)}"
    )


def no_key(section: str, name: str, known: Collection[str]) -> str:
    """That a section has no such key, and which it has."""
    hint = did_you_mean(name, known) or ";"
    return f"there is no key {section}.{name}{hint} [{section}] has {', '.join(known)}"


class Layers:
    """The sources of one `Settings` class, strongest first: command line, environment, file."""

    @classmethod
    def read(cls, model: type[BaseSettings], toml: Path | None, overrides: Mapping[str, Any]) -> Layers:
        """With a file that may be absent. Raises SettingsError when it is not TOML."""
        try:
            file = ConfigFile(None) if toml is None else ConfigFile.read(toml)
        except ValueError as error:
            raise SettingsError([str(error)]) from error
        return cls(model, file, overrides)

    def __init__(self, model: type[BaseSettings], file: ConfigFile, overrides: Mapping[str, Any]) -> None:
        self.problems: list[str] = []
        self._sections: dict[str, Any] = {
            name: field.annotation for name, field in model.model_fields.items()
        }
        self.overrides = overrides
        self.file = file
        self.data: list[dict[str, Any]] = [
            self._read_overrides(),
            _Environment(model)(),
            self._read_file(),
        ]
        self._former: dict[tuple[int, str, str], list[str]] = {}
        """Which source gave a field under its former key: source, section and field -> that key."""
        self._take_former_keys()

    def annotation(self, section: str, name: str) -> Any:
        model = self._sections.get(section)
        field = model.model_fields.get(name) if model is not None else None
        return None if field is None else field.annotation

    def _read_overrides(self) -> dict[str, Any]:
        layer: dict[str, Any] = {}
        for key, given in self.overrides.items():
            value = given.value if isinstance(given, Override) else given
            section, _, name = key.partition(".")
            if not section or not name:
                self.problems.append(f"{self.where([section, name])}: {key!r} is not of the form section.key")
                continue
            if isinstance(value, str):
                value = parse_text(self.annotation(section, name), value)
            layer.setdefault(section, {})[name] = value
        return layer

    def _read_file(self) -> dict[str, Any]:
        """The file's data, with paths made relative to the file instead of the current directory."""
        layer = {
            section: dict(values) if isinstance(values, dict) else values
            for section, values in self.file.data.items()
        }
        for section, values in layer.items():
            for name, value in values.items() if isinstance(values, dict) else ():
                if self.file.path is not None and holds_path(self.annotation(section, name)):
                    layer[section][name] = _beside(self.file.path, value)
        return layer

    def _take_former_keys(self) -> None:
        """Put values under the keys that their fields have now."""
        for section, model in self._sections.items():
            for name, field in model.model_fields.items():
                for former in (mark for mark in field.metadata if isinstance(mark, Formerly)):
                    self._take_former(former.key, section, name)

    def _take_former(self, key: str, section: str, name: str) -> None:
        old_section, _, old_name = key.partition(".")
        for index, layer in enumerate(self.data):
            old, new = layer.get(old_section), layer.get(section, {})
            if not isinstance(old, dict) or not isinstance(new, dict) or old_name not in old:
                continue
            log.warning(
                "%s: %s is %s.%s now", self._where_in(index, [old_section, old_name]), key, section, name
            )
            value = old.pop(old_name)
            if name not in new:
                layer[section] = {**new, name: value}
                self._former[index, section, name] = [old_section, old_name]

    def take_unknown(self, silent_plugins: Collection[str]) -> None:
        """Take out sections and keys that nobody knows, and note them as problems.

        Sections that a disabled or failed plugin (`silent_plugins`) may have added are no problem.
        """
        for variable in sorted(os.environ):
            section, nested, _ = variable.upper().removeprefix(ENV_PREFIX).lower().partition("__")
            # Without `__` it may be anybody's: Kubernetes sets COMFYK_PORT for a service called comfyk.
            if variable.upper().startswith(ENV_PREFIX) and nested and section not in self._sections:
                self._unknown_section(variable, section, silent_plugins)
        for index, layer in enumerate(self.data):
            for section in list(layer):
                if section not in self._sections:
                    del layer[section]
                    words = self._overridden(section) if index == 0 else [self.file.where([section])]
                    for word in words:
                        self._unknown_section(word, section, silent_plugins if index else ())
                elif isinstance(layer[section], dict):
                    self._take_unknown_keys(section, layer[section], index)

    def _unknown_section(self, where: str, section: str, silent_plugins: Collection[str]) -> None:
        hint = did_you_mean(section, self._sections)
        if section in {name.replace("-", "_") for name in silent_plugins} or (silent_plugins and not hint):
            log.debug("%s: section %r belongs to no plugin that is loaded", where, section)
            return
        self.problems.append(f"{where}: {no_section(section, self._sections)}")

    def _take_unknown_keys(self, section: str, values: dict[str, Any], index: int) -> None:
        model = self._sections[section]
        if model.model_config.get("extra") == "allow":
            return
        for name in [name for name in values if name not in model.model_fields]:
            where = self._where_in(index, [section, name])
            del values[name]
            self.problems.append(f"{where}: {no_key(section, name, model.model_fields)}")

    def _overridden(self, section: str) -> list[str]:
        return [self._override_source(key) for key in self.overrides if key.startswith(f"{section}.")]

    def _override_source(self, key: str) -> str:
        given = self.overrides.get(key)
        return given.source if isinstance(given, Override) else f"override {key}"

    def _where_in(self, index: int, key: Sequence[str]) -> str:
        if len(key) > 1:
            former = self._former.get((index, key[0], key[1]))
            key = key if former is None else [*former, *key[2:]]
        if index == 0:
            return self._override_source(".".join(key[:2]))
        if index == 1:
            wanted = ENV_PREFIX + "__".join(key).upper()
            variables = {name.upper(): name for name in os.environ}
            while wanted not in variables and "__" in wanted:  # a whole section or list as JSON
                wanted = wanted.rpartition("__")[0]
            return variables.get(wanted, wanted)
        return self.file.where(key)

    def merged(self, section: str) -> dict[str, Any]:
        """What all sources together say of a section."""
        values: dict[str, Any] = {}
        for layer in reversed(self.data):
            given = layer.get(section)
            values.update(given if isinstance(given, dict) else {})
        return values

    def stronger_than_file(self, key: Sequence[str]) -> str | None:
        """The option or variable that gives a key its value, whatever the file says."""
        for index, layer in enumerate(self.data[:2]):
            if key[1] in layer.get(key[0], {}):
                return self._where_in(index, key)
        return None

    def where(self, key: Sequence[str]) -> str | None:
        """What gave a key its value; None: it has its default."""
        section, *names = key
        for index, layer in enumerate(self.data):
            values = layer.get(section)
            if section in layer and (not names or not isinstance(values, dict) or names[0] in values):
                return self._where_in(index, key)
        return None

    def explain(self, error: ValidationError, *prefix: str) -> list[str]:
        """One line for each error: where the value is from, the key, the value, what is allowed."""
        lines: dict[str, None] = {}
        for detail in error.errors(include_url=False):
            loc = [*prefix, *detail["loc"]]
            names = [str(part) for part in loc[:2]]
            where = self.where(names) or "settings"
            key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)[1:]
            shown = f" {detail['input']!r}:" if len(loc) > 1 and detail["type"] != "missing" else ""
            lines[f"{where}: {key}:{shown} {detail['msg'].removeprefix('Value error, ')}"] = None
        return list(lines)


def _beside(file: Path, value: Any) -> Any:
    """Relative paths as those beside the file."""
    if isinstance(value, list):
        return [_beside(file, item) for item in value]
    if isinstance(value, str) and value and not value.startswith("~"):
        return str(file.parent / value)
    return value
