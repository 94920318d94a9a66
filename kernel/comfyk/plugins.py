"""Which plugins there are, in which order their hooks run, and what went wrong in each.

A plugin is found through an entry point in the group `comfyk` and bears its name. Nothing that a plugin does
keeps another one, or the server, from starting: errors are kept per plugin and shown by `comfyk plugin list`.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import inspect
import json
import logging
import os
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pluggy

from comfyk import hookspecs

log = logging.getLogger(__name__)

ERRORS_FILE = "comfyk/plugin-errors.json"
"""In the user folder: what went wrong in plugins since the latest start of a server."""

PluginState = Literal["enabled", "disabled", "failed"]

_SPECS = frozenset(name for name in vars(hookspecs) if name.startswith("comfyk_"))


@dataclass(frozen=True, slots=True)
class PluginError:
    """The latest error of one hook; `hook` is `import` when the plugin did not load at all."""

    hook: str
    message: str
    traceback: str = ""


@dataclass(slots=True)
class PluginInfo:
    """One plugin as `comfyk plugin list` shows it."""

    name: str
    state: PluginState
    module: str = ""
    distribution: str = ""
    version: str = ""
    hooks: list[str] = field(default_factory=list)
    errors: list[PluginError] = field(default_factory=list)


@dataclass(slots=True)
class _Plugin:
    name: str
    state: PluginState
    module: str
    distribution: importlib.metadata.Distribution | None = None
    hooks: list[str] = field(default_factory=list)
    errors: dict[str, PluginError] = field(default_factory=dict)


class Plugins:
    """The plugins of one process. `Plugins()` has none; `Plugins.discover()` has all that are installed.

    `hook` calls a hook of all plugins in pluggy's way: the first exception ends the call. `call` and
    `call_async` keep each plugin's exceptions to itself.
    """

    def __init__(self, disabled: Iterable[str] = ()) -> None:
        self.disabled = frozenset(disabled)
        self._plugins: dict[str, _Plugin] = {}
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self.hook = self._manager.hook

    @classmethod
    def discover(cls, disabled: Iterable[str] = ()) -> Plugins:
        """Import every installed plugin that is not disabled."""
        plugins = cls(disabled)
        found = importlib.metadata.entry_points(group=hookspecs.PROJECT)
        # pluggy calls the plugin that was registered last first, and hooks shall run in alphabetical order.
        for entry_point in sorted(found, key=lambda entry: entry.name, reverse=True):
            plugins.add(entry_point.name, entry_point.load, entry_point.value, entry_point.dist)
        for name in sorted(plugins.disabled - plugins._plugins.keys()):
            close = difflib.get_close_matches(name, plugins._plugins, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            log.warning("the setting plugins.disabled names %r, and no plugin is called that%s", name, hint)
        return plugins

    def add(
        self,
        name: str,
        load: Callable[[], object],
        module: str = "",
        distribution: importlib.metadata.Distribution | None = None,
    ) -> None:
        """Load one more plugin, unless it is disabled. Never raises: see `infos` for what became of it."""
        if name in self._plugins:
            # Both go by one name, so neither can be told from the other in the settings.
            message = f"two plugins are called {name!r}: {self._plugins[name].module} and {module}"
            self._plugins[name].errors["name"] = PluginError("name", message)
            log.error(message)
            return
        plugin = _Plugin(name, "disabled" if name in self.disabled else "enabled", module, distribution)
        self._plugins[name] = plugin
        if plugin.state == "disabled":
            return
        try:
            loaded = load()
            self._manager.register(loaded, name)
        except (Exception, SystemExit) as error:
            plugin.state = "failed"
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)
            self._record(plugin, "import", error)
            return
        plugin.module = plugin.module or getattr(loaded, "__name__", type(loaded).__name__)
        self._check_names(plugin, loaded)

    def register(self, loaded: object, name: str | None = None) -> None:
        """Add a module or object with hooks that is at hand already."""
        self.add(name or getattr(loaded, "__name__", type(loaded).__name__), lambda: loaded)

    def _check_names(self, plugin: _Plugin, loaded: object) -> None:
        """Report what looks like a hook and will never be called."""
        for caller in self._manager.get_hookcallers(loaded) or ():
            plugin.hooks.append(caller.name)
            impls = [impl for impl in caller.get_hookimpls() if impl.plugin is loaded]
            if caller.name not in _SPECS and not any(impl.optionalhook for impl in impls):
                close = difflib.get_close_matches(caller.name, _SPECS, 1)
                hint = f"; did you mean {close[0]}?" if close else ""
                self._complain(plugin, caller.name, f"there is no hook {caller.name}{hint}")
        plugin.hooks.sort()
        for name in _SPECS - set(plugin.hooks):
            function = inspect.getattr_static(loaded, name, None)
            if inspect.isfunction(function) and not hasattr(function, "comfyk_impl"):
                self._complain(plugin, name, f"{name} has no @hookimpl and is not called")

    # --- calls ---------------------------------------------------------------------------------------------

    def implements(self, hook: str) -> bool:
        """Whether any plugin has this hook."""
        return bool(getattr(self.hook, hook).get_hookimpls())

    def call(self, hook: str, **arguments: Any) -> list[Any]:
        """Call a hook of every plugin, and return the results that are not None.

        A plugin that raises is logged and recorded, and the next is called.
        """
        return [result for _, result in self.call_each(hook, **arguments)]

    def call_each(self, hook: str, **arguments: Any) -> list[tuple[str, Any]]:
        """Like `call`, with the name of the plugin that each result is from."""
        results: list[tuple[str, Any]] = []
        for plugin, function in self._implementations(hook, arguments):
            try:
                result = function()
                if inspect.iscoroutine(result):
                    result.close()
                    raise TypeError(f"{hook} cannot be async")
            except (Exception, SystemExit) as error:
                self._record(plugin, hook, error)
            else:
                if result is not None:
                    results.append((plugin.name, result))
        return results

    async def call_async(self, hook: str, *, reverse: bool = False, **arguments: Any) -> list[Any]:
        """Like `call`, and awaits what is awaitable, one plugin after the other."""
        implementations = list(self._implementations(hook, arguments))
        results: list[Any] = []
        for plugin, function in reversed(implementations) if reverse else implementations:
            try:
                result = function()
                if inspect.isawaitable(result):
                    result = await result
            except (Exception, SystemExit) as error:
                self._record(plugin, hook, error)
            else:
                if result is not None:
                    results.append(result)
        return results

    def _implementations(
        self, hook: str, arguments: dict[str, Any]
    ) -> Iterator[tuple[_Plugin, Callable[[], Any]]]:
        for impl in reversed(getattr(self.hook, hook).get_hookimpls()):
            plugin = self._plugins[impl.plugin_name]
            if impl.wrapper or impl.hookwrapper:
                self._complain(plugin, hook, f"{hook} cannot be wrapped: plugins are called one by one")
                continue
            values = [arguments[name] for name in impl.argnames]
            yield plugin, lambda impl=impl, values=values: impl.function(*values)

    # --- errors --------------------------------------------------------------------------------------------

    def record(self, name: str, hook: str, error: BaseException) -> None:
        """Keep an error that was found in what a plugin's hook returned."""
        self._record(self._plugins[name], hook, error)

    def _record(self, plugin: _Plugin, hook: str, error: BaseException) -> None:
        # The frames of this file say nothing about the plugin.
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
            frames = frames.tb_next
        text = "".join(traceback.format_exception(type(error), error, frames or error.__traceback__))
        entry = PluginError(hook, f"{type(error).__name__}: {error}".removesuffix(": "), text)
        known = plugin.errors.get(hook)
        plugin.errors[hook] = entry
        if known is None or known.message != entry.message:  # a failing event listener would fill the log
            log.error("plugin %s failed in %s: %s", plugin.name, hook, entry.message, exc_info=error)

    def _complain(self, plugin: _Plugin, hook: str, message: str) -> None:
        if hook not in plugin.errors:
            plugin.errors[hook] = PluginError(hook, message)
            log.error("plugin %s: %s", plugin.name, message)

    def names(self, *states: PluginState) -> list[str]:
        """The names of the installed plugins (in one of `states`), sorted."""
        return sorted(p.name for p in self._plugins.values() if not states or p.state in states)

    def infos(self) -> list[PluginInfo]:
        """All installed plugins, sorted by name."""
        return [
            PluginInfo(
                name=plugin.name,
                state=plugin.state,
                module=plugin.module,
                distribution=plugin.distribution.metadata["Name"] if plugin.distribution else "",
                version=plugin.distribution.version if plugin.distribution else "",
                hooks=list(plugin.hooks),
                errors=list(plugin.errors.values()),
            )
            for plugin in sorted(self._plugins.values(), key=lambda plugin: plugin.name)
        ]

    def save_errors(self, file: Path) -> None:
        """Write all errors to `file`, for another process to show. The old file stays whole until then."""
        errors = {
            plugin.name: [asdict(error) for error in plugin.errors.values()]
            for plugin in self._plugins.values()
            if plugin.errors
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f"{file.name}.{os.getpid()}")
        part.write_text(json.dumps(errors, indent=1), encoding="utf-8")
        part.replace(file)


def load_errors(file: Path) -> dict[str, list[PluginError]]:
    """What `save_errors` wrote; empty when there is nothing that can be read."""
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        return {name: [PluginError(**error) for error in errors] for name, errors in saved.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
