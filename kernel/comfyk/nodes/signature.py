"""What a method that an author wrote can be called with."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def argument_names(method: Callable[..., Any]) -> tuple[frozenset[str], bool]:
    """The names that a bound method takes, and whether it takes any others too (`**kwargs`)."""
    parameters = inspect.signature(method).parameters.values()
    names = frozenset(one.name for one in parameters if one.kind in _NAMED)
    return names, any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)
