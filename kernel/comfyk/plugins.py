"""Which plugins there are, and what went wrong in each. How their hooks are called is in `comfyk.hooks`.

A plugin is found through an entry point in the group `comfyk` and bears its name. Nothing that a plugin does
keeps another one, or the server, from starting: errors are kept per plugin and shown by `comfyk plugin list`.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import logging
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from comfyk import builtin, hook_guards, hook_spec, hooks, hookspecs
from comfyk.atomic import write_file
from comfyk.foreign_code import describe, is_ours, watch
from comfyk.hooks import PROJECT, BoundHooks, HookCalls
from comfyk.plugin_info import PluginError, PluginInfo, PluginState
from comfyk.settings_sources import did_you_mean

log = logging.getLogger(__name__)

KERNEL = "kernel"
"""The plugin that the kernel itself is: there in every process, called last."""

_HERE = (__file__, hooks.__file__, hook_guards.__file__, hook_spec.__file__)


@dataclass(slots=True)
class _Plugin:
    name: str
    state: PluginState
    module: str
    distribution: importlib.metadata.Distribution | None = None
    hooks: list[str] = field(default_factory=list)
    errors: dict[str, PluginError] = field(default_factory=dict)


class Plugins:
    """The plugins of one process. `Plugins()` has the kernel's own, `Plugins.discover()` all that are installed."""

    def __init__(self, disabled: Iterable[str] = ()) -> None:
        self.disabled = frozenset(disabled)
        self._plugins: dict[str, _Plugin] = {}
        self._loaded: dict[str, object] = {}
        self._hooks = HookCalls(self.record)
        self._hooks.add_specs(hookspecs)
        self.add(KERNEL, lambda: builtin, builtin.__name__)

    @classmethod
    def discover(cls, disabled: Iterable[str] = ()) -> Plugins:
        """Import every installed plugin that is not disabled."""
        plugins = cls(disabled)
        found = importlib.metadata.entry_points(group=PROJECT)
        # pluggy calls the plugin that was registered last first, and hooks shall run in alphabetical order.
        entry_points = sorted(found, key=lambda entry: (entry.name, entry.value), reverse=True)
        for entry_point in entry_points:
            plugins._load(entry_point.name, entry_point.load, entry_point.value, entry_point.dist)
        plugins._add_hooks()
        for name in [entry_point.name for entry_point in entry_points]:
            plugins._register(name)
        for name in sorted(plugins.disabled - plugins._plugins.keys()):
            hint = did_you_mean(name, plugins._plugins)
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
        self._load(name, load, module, distribution)
        self._add_hooks()
        self._register(name)

    def register(self, loaded: object, name: str | None = None) -> None:
        """Add a module or object with hooks that is at hand already."""
        self.add(name or getattr(loaded, "__name__", type(loaded).__name__), lambda: loaded)

    def _load(
        self,
        name: str,
        load: Callable[[], object],
        module: str,
        distribution: importlib.metadata.Distribution | None,
    ) -> None:
        """Import a plugin. Its hooks are registered once the hooks are known that all plugins add."""
        if name in self._plugins:
            # Both go by one name, so neither can be told from the other in the settings.
            message = f"two plugins are called {name!r}: {self._plugins[name].module} and {module}"
            self._plugins[name].errors["name"] = PluginError("name", message)
            log.error(message)
            return
        state: PluginState = "disabled" if name in self.disabled and name != KERNEL else "enabled"
        plugin = _Plugin(name, state, module, distribution)
        self._plugins[name] = plugin
        if plugin.state == "disabled":
            return
        try:
            with watch("the import of the plugin", name):
                loaded = load()
        except BaseException as error:
            if is_ours(error):
                raise
            plugin.state = "failed"
            self._record(plugin, "import", error)
            return
        plugin.module = plugin.module or getattr(loaded, "__name__", type(loaded).__name__)
        self._loaded[name] = loaded

    def _add_hooks(self) -> None:
        """Add the hooks that newly loaded plugins have for others. They come first: all may use them."""
        for name, loaded in sorted(self._loaded.items()):
            function = getattr(loaded, "comfyk_add_hooks", None)
            if not hasattr(function, "comfyk_impl"):
                continue
            try:
                added = function()  # type: ignore[misc]
                if added is not None:
                    self._hooks.add_specs(added)
            except BaseException as error:
                if is_ours(error):
                    raise
                self.record(name, "comfyk_add_hooks", error)

    def _register(self, name: str) -> None:
        loaded = self._loaded.pop(name, None)
        if loaded is None:
            return
        plugin = self._plugins[name]
        try:
            hooks = self._hooks.register(loaded, name)
        except BaseException as error:
            if is_ours(error):
                raise
            plugin.state = "failed"
            self._record(plugin, "import", error)
            return
        plugin.hooks = sorted(hooks)
        for hook, optional in hooks.items():
            if hook not in self._hooks.specs and not optional:
                hint = did_you_mean(hook, self._hooks.specs)
                self._complain(plugin, hook, f"there is no hook {hook}{hint}")
        for hook in self._hooks.specs.keys() - set(plugin.hooks):
            function = inspect.getattr_static(loaded, hook, None)
            if inspect.isfunction(function) and not hasattr(function, "comfyk_impl"):
                self._complain(plugin, hook, f"{hook} has no @hookimpl and is not called")

    # --- calls ---------------------------------------------------------------------------------------------

    def call(self, hook: str, **arguments: Any) -> Any:
        """Call a hook before there is an app: the results that are not None, or the first one.

        With an app, call `app.hook.NAME(...)`.
        """
        return self._hooks.call(hook, **arguments)

    def call_each(self, hook: str, **arguments: Any) -> list[tuple[str, Any]]:
        """Like `call`, with the name of the plugin that each result is from."""
        return self._hooks.call_each(hook, **arguments)

    async def call_async(self, hook: str, **arguments: Any) -> Any:
        """Like `call`, for async hooks."""
        return await self._hooks.call_async(hook, **arguments)

    def bound_to(self, app: object) -> BoundHooks:
        """The hooks, called with `app` as the app."""
        return BoundHooks(self._hooks, {"app": app})

    # --- errors --------------------------------------------------------------------------------------------

    def record(self, name: str, hook: str, error: BaseException) -> None:
        """Keep an error of a plugin: what its hook raised, or what was found wrong with what the hook returned."""
        plugin = self._plugins.get(name)
        if plugin is None:  # the result of a wrapper whose plugin is not known
            log.error("a plugin failed in %s", hook, exc_info=error)
            return
        self._record(plugin, hook, error)

    def _record(self, plugin: _Plugin, hook: str, error: BaseException) -> None:
        # The frames of the call itself say nothing about the plugin.
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename in _HERE:
            frames = frames.tb_next
        text = "".join(traceback.format_exception(type(error), error, frames or error.__traceback__))
        entry = PluginError(hook, describe(error), text)
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
        return sorted(p.name for p in self._installed() if not states or p.state in states)

    def infos(self) -> list[PluginInfo]:
        """All installed plugins, sorted by name; the kernel's own only when something is wrong with it."""
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
            for plugin in sorted(self._installed(), key=lambda plugin: plugin.name)
        ]

    def _installed(self) -> list[_Plugin]:
        return [plugin for plugin in self._plugins.values() if plugin.name != KERNEL or plugin.errors]

    def save_errors(self, file: Path) -> None:
        """Write all errors to `file`, for another process to show. The old file stays whole until then."""
        errors = {
            plugin.name: [asdict(error) for error in plugin.errors.values()]
            for plugin in self._plugins.values()
            if plugin.errors
        }
        write_file(file, json.dumps(errors, indent=1))
