"""The `comfyk` command: its own commands, and those of plugins. Nothing is imported before it is needed."""

from __future__ import annotations

import importlib
from typing import Any

import click

import comfyk
from comfyk import ctrl_c
from comfyk.logs import brief_logging

_COMMANDS = {
    "doctor": "comfyk.commands.doctor:doctor",
    "plugin": "comfyk.commands.plugin:plugin",
    "run": "comfyk.commands.run:run",
    "settings": "comfyk.commands.settings:settings",
    "start": "comfyk.commands.start:start",
}


class _Comfyk(click.Group):
    """Commands that are looked up in `_COMMANDS`, then among the plugins."""

    _asked_plugins = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        from comfyk.settings import SettingsError

        try:
            self._ask_plugins(ctx)
        except SettingsError as error:  # help must work to put it right
            click.echo(f"Without the plugins' commands:\n{error}\n", err=True)
        return sorted({*_COMMANDS, *self.commands})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _COMMANDS:
            module, _, name = _COMMANDS[cmd_name].partition(":")
            return getattr(importlib.import_module(module), name)
        self._ask_plugins(ctx)
        return self.commands.get(cmd_name)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        name = name or cmd.name
        if name in _COMMANDS or name in self.commands:
            raise ValueError(f"there is a command {name!r} already")
        super().add_command(cmd, name)

    def _ask_plugins(self, ctx: click.Context) -> None:
        if not self._asked_plugins:
            session(ctx).plugins.call("comfyk_register_commands", cli=self)
            self._asked_plugins = True

    def invoke(self, ctx: click.Context) -> Any:
        from comfyk.settings import SettingsError

        try:
            return super().invoke(ctx)
        except SettingsError as error:
            raise click.ClickException(str(error)) from error


def session(ctx: click.Context) -> Any:
    """The `Session` of this call, made when it is first asked for: `--help` comes before the group runs."""
    from comfyk.commands.session import Session, overrides_of

    root = ctx.find_root()
    if not isinstance(root.obj, Session):
        from comfyk.commands.options import OptionError

        try:
            overrides = overrides_of(root.params.get("base_directory"), root.params.get("set_", ()))
        except OptionError as error:
            raise click.UsageError(str(error)) from error
        root.obj = Session(root.params.get("config"), overrides)
    return root.obj


def build_cli() -> click.Group:
    """The command group, without any plugin's commands yet."""

    @click.group(cls=_Comfyk, context_settings={"help_option_names": ["-h", "--help"]})
    @click.option("--config", metavar="FILE", help="The configuration file, instead of comfyk.toml.")
    @click.option("--base-directory", metavar="DIR", help="The folder with models, custom_nodes, output ...")
    @click.option("--set", "set_", multiple=True, metavar="SECTION.KEY=VALUE", help="Change a setting.")
    @click.version_option(comfyk.__version__, message="comfyk %(version)s")
    @click.pass_context
    def cli(
        ctx: click.Context, config: str | None, base_directory: str | None, set_: tuple[str, ...]
    ) -> None:
        """A server for generative workflows that speaks the ComfyUI API."""
        session(ctx)

    return cli


def main() -> None:
    """The console script."""
    ctrl_c.listen()
    brief_logging()
    build_cli()(prog_name="comfyk")


if __name__ == "__main__":
    main()
