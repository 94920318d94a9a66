"""What a hookspec says: how its hook is called, and what may be returned, which is checked before it is used."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace, UnionType
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints, overload

import pluggy

PROJECT = "comfyk"

_mark_spec = pluggy.HookspecMarker(PROJECT)

Raises = bool | type[Exception]

P = ParamSpec("P")
R = TypeVar("R")

_PATIENCE_S = 30.0
"""How long what an async hook does is waited for."""


@overload
def hookspec(function: Callable[P, R]) -> Callable[P, R]: ...
@overload
def hookspec(
    *,
    firstresult: bool = False,
    raises: Raises = False,
    reverse: bool = False,
    patience_s: float = _PATIENCE_S,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def hookspec(
    function: Callable[P, R] | None = None,
    *,
    firstresult: bool = False,
    raises: Raises = False,
    reverse: bool = False,
    patience_s: float = _PATIENCE_S,
) -> Any:
    """Mark a function as a hookspec; an `async def` is an async hook.

    What an implementation returns has to fit the function's return annotation (or be None), whose names must be there
    at run time.

    - `firstresult` ends the call with the first result that is not None.
    - `raises`: an exception ends the call and comes out of it; given an exception type, only such a one. Any other is
      recorded as the plugin's error, and the other plugins are called.
    - `reverse` calls the plugins in the opposite order, for what takes down what another hook has put up. Of async
      hooks only.
    - What an async hook does is waited for `patience_s` seconds; then it goes on by itself, and that is recorded.
    """

    def mark(function: Callable[P, R]) -> Callable[P, R]:
        function.comfyk_rules = {  # type: ignore[attr-defined]
            "firstresult": firstresult,
            "raises": raises,
            "reverse": reverse,
            "patience_s": patience_s,
        }
        return _mark_spec(function, firstresult=firstresult)

    return mark if function is None else mark(function)


class WrongResult(TypeError):
    """A plugin's hook returned what it may not; the message says which hook, what, and what it may."""


@dataclass
class Spec:
    """What a hookspec says of itself."""

    name: str
    function: Callable[..., Any]
    is_async: bool
    firstresult: bool = False
    raises: Raises = False
    reverse: bool = False
    patience_s: float = _PATIENCE_S

    @classmethod
    def of(cls, name: str, function: Callable[..., Any]) -> Spec:
        rules = getattr(function, "comfyk_rules", {})
        return cls(name, function, inspect.iscoroutinefunction(function), **rules)

    def lets_out(self, error: BaseException) -> bool:
        """Whether what a function raised ends the call."""
        return self.raises if isinstance(self.raises, bool) else isinstance(error, self.raises)

    @cached_property
    def arguments(self) -> frozenset[str]:
        return frozenset(inspect.signature(self.function).parameters)

    @cached_property
    def returns_awaitables(self) -> bool:
        """Whether what comes back is to be awaited by whoever calls the hook, when the time has come."""
        returned = self._returned
        kinds = get_args(returned) if get_origin(returned) in (Union, UnionType) else (returned,)
        return any(_is_awaitable(get_origin(kind) or kind) for kind in kinds)

    @cached_property
    def _returned(self) -> Any:
        said = self.function.__annotations__.get("return", Any)
        only = SimpleNamespace(__annotations__={"return": said})
        return get_type_hints(only, self.function.__globals__, include_extras=True)["return"]

    def check(self, value: Any) -> Any:
        """The value as the annotation has it. Raises WrongResult when it is something else."""
        if value is None or self._check is None:
            return value
        return self._check(value)

    @cached_property
    def _check(self) -> Callable[[Any], Any] | None:
        from pydantic import ConfigDict, TypeAdapter, ValidationError

        returned = self._returned
        if returned in (Any, type(None)):
            return None if returned is Any else self._refuse
        adapter: TypeAdapter[Any] = TypeAdapter(
            _whole(returned), config=ConfigDict(arbitrary_types_allowed=True)
        )

        def check(value: Any) -> Any:
            if isinstance(value, Iterator):
                value = list(value)  # here, so that what a generator raises is seen as it is
            try:
                return adapter.validate_python(value)
            except ValidationError as error:
                first = error.errors(include_url=False, include_context=False)[0]
                where = "".join(f"[{part!r}]" for part in first["loc"])
                shown = f"{type(first['input']).__name__} {first['input']!r:.80}"
                raise WrongResult(
                    f"{self.name} returned {where or 'a value'}: {first['msg']}, not {shown}"
                ) from None

        return check

    def _refuse(self, value: Any) -> Any:
        raise WrongResult(f"{self.name} returned {value!r:.80}; it returns nothing")


def _is_awaitable(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, Awaitable)


def _whole(annotation: Any) -> Any:
    """With lists for iterables: a generator is run to its end while it can still be blamed on its plugin."""
    if get_origin(annotation) is Iterable:
        return list[get_args(annotation)]
    arguments = get_args(annotation)
    if not arguments or Iterable not in {get_origin(argument) for argument in arguments}:
        return annotation
    wholes = [_whole(argument) for argument in arguments]
    whole = wholes[0]
    for other in wholes[1:]:
        whole = whole | other
    return whole
