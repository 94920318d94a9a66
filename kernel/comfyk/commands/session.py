"""What the commands of one `comfyk` call share: the configuration file, the plugins and the settings."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfyk import generation
from comfyk.commands.options import split_setting
from comfyk.config_file import config_path
from comfyk.plugins import Plugins
from comfyk.settings import Override, Settings, SettingsError, disabled_plugins, load_settings

if TYPE_CHECKING:
    from comfyk.app import App
    from comfyk.jobs.store import JobStore


def overrides_of(base: str | None, sets: Iterable[str]) -> dict[str, Override]:
    """What `--base-directory` and each `--set` say; the option wins. Raises OptionError."""
    overrides: dict[str, Override] = {}
    for text in sets:
        key, value = split_setting(text)
        overrides[key] = Override(value, f"--set {text}")
    if base is not None:
        overrides["folders.base"] = Override(base, "--base-directory")
    return overrides


class Session:
    """The object of the click context: `@click.pass_obj` gives it to a command, also to a plugin's."""

    def __init__(self, config: str | None = None, overrides: Mapping[str, Any] | None = None) -> None:
        self.config = config
        self.overrides: dict[str, Any] = dict(overrides or {})

    @cached_property
    def config_file(self) -> Path:
        """The configuration file; one in the base directory need not exist. Raises SettingsError."""
        base = self.overrides.get("folders.base") or os.environ.get("COMFYK_FOLDERS__BASE")
        if isinstance(base, Override):
            base = base.value
        try:
            return config_path(self.config, Path(base or "."))
        except FileNotFoundError as error:
            raise SettingsError([str(error)]) from error

    @cached_property
    def plugins(self) -> Plugins:
        """The installed plugins. Raises SettingsError when it cannot be told which are disabled."""
        disabled = disabled_plugins(self.config_file, self.overrides)
        user = generation.user_folder(self.config_file, self.overrides)
        if user is not None:
            generation.activate(user)  # first: plugins may be among the packages there
        return Plugins.discover(disabled)

    @cached_property
    def settings(self) -> Settings:
        """Raises SettingsError with everything that is wrong."""
        return self.settings_with({})

    def settings_with(self, overrides: Mapping[str, Any]) -> Settings:
        """The settings, with what a command's own options say."""
        return load_settings(self.plugins, toml=self.config_file, overrides={**self.overrides, **overrides})

    def app(self, overrides: Mapping[str, Any] | None = None, *, store: JobStore | None = None) -> App:
        """An app, not started: `async with session.app() as app:` runs it, with `store` for its jobs."""
        from comfyk.app import App

        return App(self.settings_with(overrides or {}), self.plugins, store=store)
