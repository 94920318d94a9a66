"""Calling hooks: the one place that every call of a hook goes through, but for `comfyk_add_hooks`.

(That one is asked before there are hooks to call: see `comfyk.plugins`.)

pluggy keeps the order (`tryfirst`, `trylast`), the wrappers and the first results. What comes on top of it: plugins
are registered behind guards (`comfyk.hook_guards`), which keep a failure in and check what is returned before anybody
uses it, and a hookspec that is `async def` makes an async hook, whose functions are awaited one after the other.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any

import pluggy

from comfyk.hook_guards import Record, guarded, results_of, through
from comfyk.hook_spec import PROJECT, Spec, WrongResult, hookspec

__all__ = ["PROJECT", "BoundHooks", "HookCalls", "WrongResult", "hookimpl", "hookspec"]

hookimpl = pluggy.HookimplMarker(PROJECT)


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
                where = self.specs[name].function.__module__
                raise ValueError(f"there is a hook {name} already, in {where}")
        for spec in found.values():
            if spec.reverse and not spec.is_async:
                raise ValueError(f"{spec.name}: only async hooks are called in reverse order")
        self._manager.add_hookspecs(namespace)
        self.specs.update(found)

    def register(self, plugin: object, name: str) -> dict[str, bool]:
        """Add a plugin's implementations. Raises what pluggy does when one does not fit its spec; then none is added.

        Returns the names of the hooks that it implements, and for each whether the hook need not exist.
        """
        seen = _Guarded()
        hooks: dict[str, bool] = {}
        for attribute in dir(plugin):
            marks = self._manager.parse_hookimpl_opts(plugin, attribute)
            if marks is None:
                continue
            hook = marks.get("specname") or attribute
            hooks[hook] = bool(marks.get("optionalhook"))
            function = guarded(self.specs.get(hook), marks, name, getattr(plugin, attribute), self._record)
            function.comfyk_impl = marks
            setattr(seen, attribute, function)
        try:
            self._manager.register(seen, name)
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
        token = results_of.set(given)
        try:
            results = self.call(hook, **arguments)
        finally:
            results_of.reset(token)
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
                outcome, failure = through(wrapper, outcome, failure, hook), None
            except BaseException as error:
                failure = error
        if failure is not None:
            raise failure
        return outcome

    def call_extra(self, hook: str, function: Callable[[], Any], **arguments: Any) -> Any:
        """Call a hook of wrappers around a function, which is called as its innermost implementation."""
        return getattr(self._manager.hook, hook).call_extra([function], arguments)


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
