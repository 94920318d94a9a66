"""The options of `comfyk start`: declared by the settings sections, read here, shown by `--help`.

click has no options that take any number of arguments, as ComfyUI's do; this small reader stands in for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from comfyk.settings import Option, Override
from comfyk.settings_fields import Nargs
from comfyk.settings_sources import did_you_mean

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo


class OptionError(Exception):
    """The command line cannot be read; the message names the option."""


@dataclass(frozen=True, slots=True)
class BoundOption:
    """An option and the field that it sets."""

    option: Option
    section: str
    name: str
    field: FieldInfo

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def nargs(self) -> Nargs:
        if self.option.nargs is not None:
            return self.option.nargs
        if self.option.bare is not None:
            return "?"
        if self.option.const is not None or self.field.annotation is bool:
            return "0"
        return "+" if get_origin(self.field.annotation) is list else "1"

    def read(self, arguments: list[str]) -> dict[str, Any]:
        """The settings that these arguments give. Raises OptionError."""
        if self.option.sets is not None:
            try:
                return dict(self.option.sets(arguments))
            except ValueError as error:
                raise OptionError(f"{self.option.name}: {error}") from error
        match self.nargs:
            case "0":
                value: Any = True if self.option.const is None else self.option.const
            case "?" if not arguments:
                value = self.option.bare
            case "*" | "+":
                value = arguments
            case _:
                value = arguments[0]
        return {self.key: value}

    def usage(self) -> str:
        """`--port INTEGER`, as `--help` shows it."""
        nargs = self.nargs
        if nargs == "0":
            return self.option.name
        metavar = self.option.metavar or _metavar(self.field)
        return f"{self.option.name} [{metavar}]" if nargs == "?" else f"{self.option.name} {metavar}"

    def help(self) -> str:
        return self.option.help or " ".join((self.field.description or "").split())


def _metavar(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return "|".join(str(value) for value in get_args(field.annotation))
    return {int: "NUMBER", float: "NUMBER"}.get(field.annotation or str, "VALUE")


def option_table(sections: Mapping[str, type[BaseModel]]) -> dict[str, BoundOption]:
    """All options by name. The first section that declares a name has it."""
    table: dict[str, BoundOption] = {}
    for section, model in sections.items():
        for name, field in model.model_fields.items():
            for option in field.metadata:
                if isinstance(option, Option):
                    table.setdefault(option.name, BoundOption(option, section, name, field))
    return table


def scan(words: Sequence[str], nargs_of: Callable[[str], Nargs]) -> Iterator[tuple[str, list[str]]]:
    """Split a command line into options with their arguments, as argparse does.

    `nargs_of` gives the number of arguments, or raises OptionError for a name that it does not know.
    """
    position = 0
    while position < len(words):
        name, inline, value = words[position].partition("=")
        if not _is_option(name):
            raise OptionError(f"unexpected argument {words[position]!r}: options begin with --")
        position += 1
        nargs = nargs_of(name)
        if inline:
            if nargs == "0":
                raise OptionError(f"{name} takes no argument")
            yield name, [value]
            continue
        most = {"0": 0, "1": 1, "?": 1}.get(nargs, len(words))
        arguments: list[str] = []
        while position < len(words) and len(arguments) < most and not _is_option(words[position]):
            arguments.append(words[position])
            position += 1
        if not arguments and nargs in ("1", "+"):
            raise OptionError(f"{name} needs an argument")
        yield name, arguments


def _is_option(word: str) -> bool:
    return word.startswith("-") and word != "-" and not re.fullmatch(r"-\d*\.?\d+", word)


@dataclass(slots=True)
class Given:
    """What a command line says."""

    overrides: dict[str, Override]
    ignored: list[str]
    """Options of ComfyUI that nothing here declares."""
    quick_test: bool = False


_OWN: dict[str, Nargs] = {"--config": "1", "--set": "1", "--quick-test-for-ci": "0"}
"""`--config` and `--set` are for `peek`."""


def read_options(
    words: Sequence[str], table: Mapping[str, BoundOption], foreign: Mapping[str, Nargs]
) -> Given:
    """Read the options of `comfyk start`. Raises OptionError for the first that cannot be read.

    A list that is given twice is the two together; of anything else the last counts.
    """

    def nargs_of(name: str) -> Nargs:
        if name in _OWN:
            return _OWN[name]
        if name in table:
            return table[name].nargs
        if name in foreign:
            return foreign[name]
        raise OptionError(f"there is no option {name}{did_you_mean(name, [*_OWN, *table, *foreign])}")

    given = Given({}, [])
    for name, arguments in scan(words, nargs_of):
        if name == "--quick-test-for-ci":
            given.quick_test = True
        elif name in table:
            for key, value in table[name].read(arguments).items():
                before = given.overrides.get(key)
                if before is not None and isinstance(value, list) and isinstance(before.value, list):
                    value = [*before.value, *value]
                given.overrides[key] = Override(value, name)
        elif name not in _OWN:
            given.ignored.append(name)
    return given


def peek(words: Sequence[str], names: Sequence[str]) -> dict[str, list[str]]:
    """What some one-argument options say, before all options are known: name -> its arguments."""
    found: dict[str, list[str]] = {name: [] for name in names}
    position = 0
    while position < len(words):
        name, inline, value = words[position].partition("=")
        position += 1
        if name in found:
            if not inline and position < len(words):
                value = words[position]
                position += 1
            found[name].append(value)
    return found


def split_setting(text: str) -> tuple[str, str]:
    """`section.key=value` -> `("section.key", "value")`. Raises OptionError."""
    key, equals, value = text.partition("=")
    section, dot, name = key.strip().partition(".")
    if not (equals and section and dot and name):
        raise OptionError(f"--set {text}: expected section.key=value")
    return f"{section}.{name}", value
