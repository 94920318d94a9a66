"""`comfyk plugin`: which plugins there are and what is wrong with them, switching them off and on, a new one."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import click

from comfyk.commands.session import Session
from comfyk.config_file import ConfigFile, locked
from comfyk.plugin_info import ERRORS_FILE, PluginError, PluginInfo, load_errors
from comfyk.settings_sources import did_you_mean


@click.group(short_help="List, switch off and on, and write plugins.")
def plugin() -> None:
    """List, switch off and on, and write plugins."""


@plugin.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """Show every installed plugin, with what is wrong with it: tried now, and at the latest start."""
    logging.getLogger("comfyk.plugins").setLevel(logging.CRITICAL)  # all of it is printed below
    session: Session = ctx.obj
    infos = _try_out(ctx, session)
    if as_json:
        click.echo(json.dumps([asdict(info) for info in infos], indent=2))
        return
    width = max((len(info.name) for info in infos), default=0)
    for info in infos:
        source = " ".join(filter(None, (info.distribution, info.version)))
        click.echo(f"{info.name:{width}}  {info.state:8}  {source}")
        for error in info.errors:
            click.echo(f"{'':{width}}  {error.hook}: {error.message}")
            click.echo(
                "".join(f"{'':{width}}    {line}\n" for line in error.traceback.splitlines()), nl=False
            )


def _try_out(ctx: click.Context, session: Session) -> list[PluginInfo]:
    """Let the plugins register everything, without a server and without node packs, and see what fails."""
    app = session.app({"nodes.disable_custom": True, "nodes.whitelist": []})
    app.register()
    plugins = session.plugins
    for hook in ("comfyk_register_routes", "comfyk_register_middlewares"):
        getattr(app.hook, hook)()
    group = ctx.find_root().command
    assert isinstance(group, click.Group)
    group.list_commands(ctx.find_root())
    infos = plugins.infos()
    earlier = load_errors(app.folders.user / ERRORS_FILE)
    for info in infos:
        known = {error.hook for error in info.errors}
        for error in earlier.get(info.name, []) if info.state == "enabled" else []:
            if error.hook not in known:
                message = f"at the latest start: {error.message}"
                info.errors.append(PluginError(error.hook, message, error.traceback))
    return infos


@plugin.command()
@click.argument("name")
@click.pass_obj
def disable(session: Session, name: str) -> None:
    """Leave the plugin NAME out, from the next start on."""
    if name not in session.plugins.names():
        raise click.ClickException(_unknown(name, session.plugins.names()))
    _switch(session, name, disable=True)


@plugin.command()
@click.argument("name")
@click.pass_obj
def enable(session: Session, name: str) -> None:
    """Load the plugin NAME again, from the next start on."""
    known = {*session.plugins.names(), *session.plugins.disabled}
    if name not in known:
        raise click.ClickException(_unknown(name, known))
    _switch(session, name, disable=False)


def _unknown(name: str, known: Iterable[str]) -> str:
    hint = did_you_mean(name, known) or ";"
    return f"there is no plugin {name!r}{hint} installed are {', '.join(sorted(known))}"


def _switch(session: Session, name: str, *, disable: bool) -> None:
    """Change `[plugins] disabled` in the configuration file, and nothing else of it."""
    file = session.config_file
    try:
        with locked(file):
            read = ConfigFile.read(file)
            disabled = list(read.data.get("plugins", {}).get("disabled", []))
            if disable == (name in disabled):
                click.echo(f"{name} is {'disabled' if disable else 'enabled'} already")
            else:
                disabled.append(name) if disable else disabled.remove(name)
                read.changed("plugins", "disabled", disabled).write()
                click.echo(
                    f"{name} is {'disabled' if disable else 'enabled'} from the next start on ({file})"
                )
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror}") from error
    source = session.settings.source("plugins.disabled")
    if source != "default" and not source.startswith(str(file)):
        click.echo(f"But {source} overrides the file", err=True)


@plugin.command()
@click.argument("name")
@click.option("--path", metavar="DIR", default=".", help="The folder to write it into; the current one.")
@click.pass_obj
def new(session: Session, name: str, path: str) -> None:
    """Write a plugin called NAME: a node, a route, a command, a settings section, a listener, and a test."""
    from comfyk.commands.new_plugin import NameRefused, write_plugin

    taken = {*session.plugins.names(), *type(session.settings).model_fields}
    try:
        folder = write_plugin(name, Path(path), taken)
    except (NameRefused, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"Wrote {folder}. Next:\n  pip install -e {folder}\n  python -m pytest {folder}")
