"""Guards: the functions that stand in the place of a plugin's own.

They keep the plugin's failures in, see to it that what does not return is told, and check what is returned against
the annotation of the hookspec.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextvars import ContextVar
from functools import wraps
from typing import Any

from comfyk.foreign_code import is_ours, watch
from comfyk.hook_spec import Spec, WrongResult

Record = Callable[[str, str, BaseException], None]
"""Keeps a plugin's error: the plugin's name, the hook's, and what was raised."""

results_of: ContextVar[list[tuple[str, Any]] | None] = ContextVar("comfyk_hook_results", default=None)
"""Where guards note which plugin returned what, while somebody wants to know."""

_waited_for: set[asyncio.Future[Any]] = set()
"""What async hooks do: a loop holds its tasks weakly."""


class HookStuck(Exception):
    """A plugin's async hook does not come to an end."""


def guarded(
    spec: Spec | None, marks: Mapping[str, Any], plugin: str, function: Callable[..., Any], record: Record
) -> Any:
    """The function of a plugin, guarded. Raises TypeError for a wrapper of pluggy's old kind."""
    if marks.get("hookwrapper"):
        raise TypeError(f"{function.__name__}: write `wrapper=True`, `result = yield`, `return result`")
    if spec is None:
        guard = lambda *arguments: function(*arguments)  # noqa: E731 (a hook that nobody calls)
    elif marks.get("wrapper"):
        guard = _wrapper(_Guarded(spec, plugin, function, record))
    elif spec.is_async:
        guard = _async(_Guarded(spec, plugin, function, record))
    else:
        guard = _plain(_Guarded(spec, plugin, function, record))
    return wraps(function)(guard)


def through(wrapper: Generator[None, Any, Any], result: Any, raised: BaseException | None, hook: str) -> Any:
    """What a wrapper makes of a result, or of what was raised inside of it. What it raises comes out."""
    try:
        if raised is None:
            wrapper.send(result)
        else:
            wrapper.throw(raised)
    except StopIteration as end:
        return end.value
    wrapper.close()
    raise _yields_wrongly(hook)


def _yields_wrongly(hook: str) -> RuntimeError:
    return RuntimeError(f"a wrapper of {hook} has to yield once")


class _Guarded:
    """One function of a plugin, and what is done about its failures."""

    def __init__(self, spec: Spec, plugin: str, function: Callable[..., Any], record: Record) -> None:
        self.spec = spec
        self.plugin = plugin
        self.function = function
        self.what = f"the hook {spec.name} of the plugin"
        self._record = record

    def failed(self, error: BaseException) -> None:
        """Record what the function raised, or let it out where its hook says so."""
        if is_ours(error):
            raise error
        if not self.spec.lets_out(error):
            self._record(self.plugin, self.spec.name, error)
            return
        if isinstance(error, WrongResult):
            self._record(self.plugin, self.spec.name, error)
            raise WrongResult(f"plugin {self.plugin}: {error}") from None
        raise error

    def checked(self, result: Any, given: Any) -> Any:
        """What a wrapper made of the result that it was given. Raises WrongResult."""
        if self.spec.firstresult:
            if result is None and given is not None:
                raise WrongResult(
                    f"a wrapper of {self.spec.name} has to return a result, the one that it got or another"
                )
            return self.spec.check(result)
        if not isinstance(result, list):
            raise WrongResult(
                f"a wrapper of {self.spec.name} has to return the list of results, not {result!r:.80}"
            )
        seen = {id(one) for one in given or ()}
        return [one if id(one) in seen else self.spec.check(one) for one in result]


def _plain(of: _Guarded) -> Callable[..., Any]:
    spec = of.spec

    def guard(*arguments: Any) -> Any:
        try:
            with watch(of.what, of.plugin):
                returned = of.function(*arguments)
            if inspect.iscoroutine(returned) and not spec.returns_awaitables:
                returned.close()
                raise WrongResult(f"{spec.name} cannot be async")
            returned = spec.check(returned)
        except BaseException as error:
            of.failed(error)
            return None
        if returned is not None and spec.returns_awaitables:
            returned = _awaited(of, returned)
        if returned is not None and (given := results_of.get()) is not None:
            given.append((of.plugin, returned))
        return returned

    return guard


async def _awaited(of: _Guarded, returned: Awaitable[Any]) -> Any:
    """What a plugin returned to be awaited later: its failures are the plugin's too."""
    what = f"what the hook {of.spec.name} has awaited of the plugin"
    try:
        with watch(what, of.plugin, awaits=True, patient=True):
            return await returned
    except GeneratorExit:  # the coroutine is being closed
        raise
    except BaseException as error:
        of.failed(error)
        return None


def _async(of: _Guarded) -> Callable[..., Any]:
    async def guard(*arguments: Any) -> Any:
        try:
            with watch(of.what, of.plugin):
                returned = of.function(*arguments)
            if inspect.isawaitable(returned):
                with watch(of.what, of.plugin, awaits=True):
                    returned = await _patiently(returned, of.spec)
            return of.spec.check(returned)
        except BaseException as error:
            of.failed(error)
            return None

    return guard


def _wrapper(of: _Guarded) -> Callable[..., Any]:
    def guard(*arguments: Any) -> Generator[None, Any, Any]:
        wrapper = None
        try:
            wrapper = of.function(*arguments)
            with watch(of.what, of.plugin):
                next(wrapper)
        except BaseException as error:
            wrapper = None
            of.failed(_yields_wrongly(of.spec.name) if isinstance(error, StopIteration) else error)
        result: Any = None
        raised: BaseException | None = None
        try:
            result = yield
        except BaseException as error:
            raised = error
        if wrapper is not None:
            try:
                with watch(of.what, of.plugin):
                    made = through(wrapper, result, raised, of.spec.name)
                return of.checked(made, result)
            except BaseException as error:
                if error is not raised:
                    of.failed(error)
        if raised is not None:
            raise raised
        return result

    return guard


async def _patiently(awaitable: Awaitable[Any], spec: Spec) -> Any:
    """What an async hook gives. Raises HookStuck when that takes too long; it goes on then, and nobody hears of it."""
    task = asyncio.ensure_future(_kept(awaitable))
    _waited_for.add(task)
    task.add_done_callback(_waited_for.discard)
    try:
        done, _ = await asyncio.wait([task], timeout=spec.patience_s)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if not done:
        raise HookStuck(
            f"{spec.name} has not returned for {spec.patience_s:g} s; the others go on without it"
        )
    result, error = task.result()
    if error is not None:
        raise error
    return result


async def _kept(awaitable: Awaitable[Any]) -> tuple[Any, BaseException | None]:
    """The result, or what is raised: out of a task some would end the loop."""
    try:
        return await awaitable, None
    except BaseException as error:
        if is_ours(error) or isinstance(error, GeneratorExit):  # the coroutine is being closed
            raise
        return None, error
