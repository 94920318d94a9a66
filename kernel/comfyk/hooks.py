"""Calling hooks: the one place that every call of a hook goes through, but for `comfyk_add_hooks`.

(That one is asked before there are hooks to call: see `comfyk.plugins`.)

pluggy keeps the order (`tryfirst`, `trylast`), the wrappers and the first results. What comes on top of it here: a
plugin that fails keeps its failure to itself, what a function returns is checked against the hookspec's annotation
before anybody uses it, and a hookspec that is `async def` makes an async hook, whose functions are awaited one after
the other.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from contextvars import ContextVar
from functools import wraps
from typing import Any

import pluggy

from comfyk.foreign_code import is_ours, watch
from comfyk.hook_spec import PROJECT, Spec, WrongResult, hookspec

__all__ = ["PROJECT", "BoundHooks", "HookCalls", "WrongResult", "hookimpl", "hookspec"]

hookimpl = pluggy.HookimplMarker(PROJECT)


class HookStuck(Exception):
    """A plugin's async hook does not come to an end."""


Record = Callable[[str, str, BaseException], None]
"""Keeps a plugin's error: the plugin's name, the hook's, and what was raised."""


_waited_for: set[asyncio.Future[Any]] = set()
"""What async hooks do: a loop holds its tasks weakly."""
_given: ContextVar[list[tuple[str, Any]] | None] = ContextVar("comfyk_hook_results", default=None)
"""While `call_each` runs: which plugin returned what."""


class _Guarded:
    """A plugin as pluggy sees it: its functions, guarded."""


class HookCalls:
    """Calls hooks. Specs are added first, then implementations; `record` is told what fails."""

    def __init__(self, record: Record) -> None:
        self.specs: dict[str, Spec] = {}
        self._record = record
        self._manager = pluggy.PluginManager(PROJECT)

    # --- what there is ----------------------------------------------------------------------------------------

    def add_specs(self, namespace: Any) -> None:
        """Add the hookspecs of a module or an object. Raises ValueError when a name is taken, or there is none."""
        if inspect.isclass(namespace):
            raise TypeError(f"{namespace!r} is a class: return an instance of it")
        found = {
            name: Spec.of(name, function)
            for name in dir(namespace)
            if name.startswith("comfyk_") and hasattr(function := getattr(namespace, name), "comfyk_spec")
        }
        if not found:
            raise ValueError(f"{namespace!r} holds no function that is marked with comfyk.hookspec")
        for name in found:
            if name in self.specs:
                raise ValueError(f"there is a hook {name} already")
        for spec in found.values():
            if spec.reverse and not spec.is_async:
                raise ValueError(f"{spec.name}: only async hooks are called in reverse order")
        self._manager.add_hookspecs(namespace)
        self.specs.update(found)

    def register(self, plugin: object, name: str) -> dict[str, bool]:
        """Add a plugin's implementations. Raises what pluggy does when one does not fit its spec; then none is added.

        Returns the names of the hooks that it implements, and for each whether the hook need not exist.
        """
        guarded = _Guarded()
        hooks: dict[str, bool] = {}
        for attribute in dir(plugin):
            marks = self._manager.parse_hookimpl_opts(plugin, attribute)
            if marks is None:
                continue
            hook = marks.get("specname") or attribute
            hooks[hook] = bool(marks.get("optionalhook"))
            function = self._guard(self.specs.get(hook), marks, name, getattr(plugin, attribute))
            function.comfyk_impl = marks
            setattr(guarded, attribute, function)
        try:
            self._manager.register(guarded, name)
        except BaseException:
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)
            raise
        return hooks

    def implements(self, hook: str) -> bool:
        """Whether any plugin has this hook."""
        return bool(getattr(self._manager.hook, hook).get_hookimpls())

    # --- calls ------------------------------------------------------------------------------------------------

    def call(self, hook: str, **arguments: Any) -> Any:
        """Call a hook: the results of all plugins that are not None, or the first one of a `firstresult` hook."""
        spec = self.specs[hook]
        if spec.is_async:
            raise TypeError(f"{hook} is an async hook: await call_async")
        return getattr(self._manager.hook, hook)(**arguments)

    def call_each(self, hook: str, **arguments: Any) -> list[tuple[str, Any]]:
        """Like `call`, with the name of the plugin that each result is from.

        What a wrapper made itself comes with the name of the first wrapper.
        """
        given: list[tuple[str, Any]] = []
        token = _given.set(given)
        try:
            results = self.call(hook, **arguments)
        finally:
            _given.reset(token)
        wrappers = [
            impl.plugin_name for impl in getattr(self._manager.hook, hook).get_hookimpls() if impl.wrapper
        ]
        by_id = {id(result): plugin for plugin, result in reversed(given)}
        return [(by_id.get(id(result), wrappers[-1] if wrappers else ""), result) for result in results]

    async def call_async(self, hook: str, **arguments: Any) -> Any:
        """Like `call`, for async hooks: one plugin after the other, each awaited before the next is called."""
        spec = self.specs[hook]
        implementations: list[pluggy.HookImpl] = getattr(self._manager.hook, hook).get_hookimpls()
        wrappers: list[Generator[None, Any, Any]] = []
        results: list[Any] = []
        failure: BaseException | None = None
        try:
            for impl in _in_order(implementations, spec.reverse):
                returned: Any = impl.function(*[arguments[name] for name in impl.argnames])
                if impl.wrapper:
                    next(returned)
                    wrappers.append(returned)
                    continue
                if inspect.isawaitable(returned):
                    returned = await returned
                if returned is not None:
                    results.append(returned)
                    if spec.firstresult:
                        break
        except BaseException as error:
            failure = error
        outcome: Any = (results[0] if results else None) if spec.firstresult else results
        for wrapper in reversed(wrappers):  # as pluggy does: each sees what the one inside of it made of it
            try:
                if failure is None:
                    wrapper.send(outcome)
                else:
                    wrapper.throw(failure)
            except StopIteration as end:
                outcome, failure = end.value, None
            except BaseException as error:
                failure = error
            else:
                wrapper.close()
                failure = RuntimeError(f"a wrapper of {hook} has to yield once")
        if failure is not None:
            raise failure
        return outcome

    def call_extra(self, hook: str, function: Callable[[], Any], **arguments: Any) -> Any:
        """Call a hook of wrappers around a function, which is called as its innermost implementation."""
        return getattr(self._manager.hook, hook).call_extra([function], arguments)

    # --- guards -----------------------------------------------------------------------------------------------

    def _guard(self, spec: Spec | None, marks: Mapping[str, Any], plugin: str, function: Any) -> Any:
        """A function in a plugin's place that keeps the plugin's failures in."""
        if marks.get("hookwrapper"):
            raise TypeError(f"{function.__name__}: write `wrapper=True`, `result = yield`, `return result`")
        if spec is None:
            guarded = lambda *arguments: function(*arguments)  # noqa: E731 (a hook that nobody calls)
        elif marks.get("wrapper"):
            guarded = self._guard_wrapper(spec, plugin, function)
        elif spec.is_async:
            guarded = self._guard_async(spec, plugin, function)
        else:
            guarded = self._guard_plain(spec, plugin, function)
        return wraps(function)(guarded)

    def _guard_plain(self, spec: Spec, plugin: str, function: Callable[..., Any]) -> Callable[..., Any]:
        what = f"the hook {spec.name} of the plugin"

        def guarded(*arguments: Any) -> Any:
            try:
                with watch(what, plugin):
                    returned = function(*arguments)
                if inspect.iscoroutine(returned) and not spec.returns_awaitables:
                    returned.close()
                    raise WrongResult(f"{spec.name} cannot be async")
                returned = spec.check(returned)
            except BaseException as error:
                self._failed(spec, plugin, error)
                return None
            if returned is not None and spec.returns_awaitables:
                returned = self._guard_awaited(spec, plugin, returned)
            if returned is not None and (given := _given.get()) is not None:
                given.append((plugin, returned))
            return returned

        return guarded

    def _guard_async(self, spec: Spec, plugin: str, function: Callable[..., Any]) -> Callable[..., Any]:
        what = f"the hook {spec.name} of the plugin"

        async def guarded(*arguments: Any) -> Any:
            try:
                with watch(what, plugin):
                    returned = function(*arguments)
                if inspect.isawaitable(returned):
                    with watch(what, plugin, awaits=True):
                        returned = await _patiently(returned, spec)
                return spec.check(returned)
            except BaseException as error:
                self._failed(spec, plugin, error)
                return None

        return guarded

    async def _guard_awaited(self, spec: Spec, plugin: str, returned: Awaitable[Any]) -> Any:
        """What a plugin returned to be awaited later: its failures are the plugin's too."""
        try:
            with watch(
                f"what the hook {spec.name} has awaited of the plugin", plugin, awaits=True, patient=True
            ):
                return await returned
        except GeneratorExit:  # the coroutine is being closed
            raise
        except BaseException as error:
            self._failed(spec, plugin, error)
            return None

    def _failed(self, spec: Spec, plugin: str, error: BaseException) -> None:
        """Record what a plugin's function raised, or let it out where its hook says so."""
        if is_ours(error):
            raise error
        if not spec.lets_out(error):
            self._record(plugin, spec.name, error)
            return
        if isinstance(error, WrongResult):
            self._record(plugin, spec.name, error)
            raise WrongResult(f"plugin {plugin}: {error}") from None
        raise error

    def _guard_wrapper(self, spec: Spec, plugin: str, function: Callable[..., Any]) -> Callable[..., Any]:
        if spec.raises is True:

            def passed_on(*arguments: Any) -> Generator[None, Any, Any]:
                wrapper = function(*arguments)
                once = RuntimeError(f"a wrapper of {spec.name} has to yield once")
                try:
                    next(wrapper)
                except StopIteration:
                    raise once from None
                result: Any = None
                raised: BaseException | None = None
                try:
                    result = yield
                except BaseException as error:
                    raised = error
                try:
                    if raised is None:
                        wrapper.send(result)
                    else:
                        wrapper.throw(raised)
                except StopIteration as end:
                    returned = end.value
                else:
                    wrapper.close()
                    raise once
                try:
                    return self._checked(spec, returned, result)
                except TypeError as error:
                    self._record(plugin, spec.name, error)
                    raise WrongResult(f"plugin {plugin}: {error}") from None

            return passed_on

        def guarded(*arguments: Any) -> Generator[None, Any, Any]:
            wrapper = None
            try:
                wrapper = function(*arguments)
                next(wrapper)
            except StopIteration:
                self._record(plugin, spec.name, RuntimeError(f"a wrapper of {spec.name} has to yield once"))
                wrapper = None
            except BaseException as error:
                self._failed(spec, plugin, error)
                wrapper = None
            result: Any = None
            raised: BaseException | None = None
            try:
                result = yield
            except BaseException as error:
                raised = error
            if wrapper is not None:
                try:
                    if raised is None:
                        wrapper.send(result)
                    else:
                        wrapper.throw(raised)
                except StopIteration as end:
                    try:
                        return self._checked(spec, end.value, result)
                    except TypeError as error:
                        self._record(plugin, spec.name, error)
                except BaseException as error:
                    if error is not raised:
                        self._failed(spec, plugin, error)
                else:
                    wrapper.close()
                    self._record(
                        plugin, spec.name, RuntimeError(f"a wrapper of {spec.name} has to yield once")
                    )
            if raised is not None:
                raise raised
            return result

        return guarded

    @staticmethod
    def _checked(spec: Spec, result: Any, given: Any) -> Any:
        """What a wrapper made of the result that it was given. Raises TypeError."""
        if spec.firstresult:
            if result is None and given is not None:
                raise WrongResult(
                    f"a wrapper of {spec.name} has to return a result, the one that it got or another"
                )
            return spec.check(result)
        if not isinstance(result, list):
            raise WrongResult(
                f"a wrapper of {spec.name} has to return the list of results, not {result!r:.80}"
            )
        seen = {id(one) for one in given or ()}
        return [one if id(one) in seen else spec.check(one) for one in result]


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


def _in_order(implementations: list[pluggy.HookImpl], reverse: bool) -> Iterable[pluggy.HookImpl]:
    """As pluggy calls them: wrappers first, then the last in its list; with `reverse` the others the other way."""
    if not reverse:
        return reversed(implementations)
    wrappers = [impl for impl in implementations if impl.wrapper]
    return [*reversed(wrappers), *(impl for impl in implementations if not impl.wrapper)]


class BoundHooks:
    """`app.hook`: hooks as methods, `app` filled in where a hook takes it.

    A call gives what `HookCalls.call` does; that of an async hook has to be awaited. Parts of the kernel are handed
    this instead of the app.
    """

    def __init__(self, calls: HookCalls, given: Mapping[str, Any]) -> None:
        self._calls = calls
        self._given = given

    def __getattr__(self, hook: str) -> Callable[..., Any]:
        spec = self._calls.specs.get(hook)
        if spec is None:
            raise AttributeError(f"there is no hook {hook}")
        given = self._given_to(spec)
        call = self._calls.call_async if spec.is_async else self._calls.call

        def bound(**arguments: Any) -> Any:
            return call(hook, **given, **arguments)

        self.__dict__[hook] = bound  # found at once the next time
        return bound

    def each(self, hook: str, **arguments: Any) -> list[tuple[str, Any]]:
        """The results of a hook with the name of the plugin that each is from."""
        return self._calls.call_each(hook, **self._given_to(self._calls.specs[hook]), **arguments)

    def around(self, hook: str, function: Callable[[], Any], **arguments: Any) -> Any:
        """Call a function through the wrappers of a hook."""
        return self._calls.call_extra(hook, function, **self._given_to(self._calls.specs[hook]), **arguments)

    def _given_to(self, spec: Spec) -> dict[str, Any]:
        """What is filled in of the arguments that a hook takes."""
        return {name: value for name, value in self._given.items() if name in spec.arguments}

    def implements(self, hook: str) -> bool:
        """Whether any plugin has this hook."""
        return self._calls.implements(hook)
