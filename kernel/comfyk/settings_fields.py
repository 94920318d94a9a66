"""What a section of the settings is made of: its model's base, paths, and a field's names on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

AbsolutePath = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]
"""A path, relative to the configuration file it is in, or else to the current directory; `~` is the home."""


Nargs = Literal["0", "1", "?", "*", "+"]
"""How many arguments an option takes, as argparse writes it."""


@dataclass(frozen=True, slots=True)
class Option:
    """A field's name on the command line: `Annotated[int, Option("--port")]`. A field may have several."""

    name: str
    _: KW_ONLY
    const: Any = None
    """A flag that takes no argument and means this. A `bool` field is a flag that means True."""
    bare: Any = None
    """What the option means when it stands alone: its argument may be left out."""
    metavar: str = ""
    help: str = ""
    """For `--help`; the field's description if empty."""
    nargs: Nargs | None = None
    """How many arguments it takes. Left out: 0 for a flag, `?` with `bare`, `+` for a list, else 1."""
    sets: Callable[[list[str]], Mapping[str, Any]] | None = None
    """Turn the arguments into settings (`{"execution.cache": "lru"}`), for options that are more than one
    field. ValueError says what is wrong with them."""


class Section(BaseModel):
    """The base of sections: a key that is not in the model is an error, a field's docstring describes it."""

    model_config = ConfigDict(extra="forbid", validate_default=True, use_attribute_docstrings=True)
