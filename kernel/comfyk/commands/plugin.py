"""`comfyk plugin`: which plugins there are and what is wrong with them, switching them off and on, a new one."""

from __future__ import annotations

import importlib.util
import json
import logging
import shlex
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import click

from comfyk.commands.session import Session
from comfyk.config_file import ConfigFile, locked
from comfyk.pack_info import PACKS_FILE, PackInfo, load_packs, pack_as_dict
from comfyk.plugin_info import ERRORS_FILE, PluginError, PluginInfo, load_errors
from comfyk.settings_sources import did_you_mean


@click.group(short_help="List, switch off and on, and write plugins.")
def plugin() -> None:
    """List, switch off and on, and write plugins."""


@plugin.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """Show every plugin and every node pack, with what is wrong with it.

    Plugins are tried now; what went wrong at the latest start is shown too. Packs are not loaded: shown is what the
    latest start made of them.
    """
    logging.getLogger("comfyk.plugins").setLevel(logging.CRITICAL)  # all of it is printed below
    session: Session = ctx.obj
    infos = _try_out(ctx, session)
    packs = _packs(session)
    if as_json:
        plugins = [{"kind": "plugin", **asdict(info)} for info in infos]
        listed = [*plugins, *({"kind": "pack", **pack_as_dict(pack)} for pack in packs)]
        click.echo(json.dumps(listed, indent=2))
        return
    width = max((len(info.name) for info in (*infos, *packs)), default=0)
    for info in infos:
        source = " ".join(filter(None, (info.distribution, info.version)))
        click.echo(f"{info.name:{width}}  {info.state:8}  {source}")
        for error in info.errors:
            click.echo(f"{'':{width}}  {error.hook}: {error.message}")
            _echo_traceback(error.traceback, width)
    if packs:
        click.echo("\nNode packs, as the latest start found them:")
    for pack in packs:
        told = pack.reason or (f"{len(pack.nodes)} nodes" if pack.state == "loaded" else "")
        state = "new" if pack.state == "loading" else pack.state
        click.echo(f"{pack.name:{width}}  {state:8}  {told or 'loaded at the next start'}".rstrip())
        if pack.state != "disabled":
            _echo_traceback(pack.error, width)


def _echo_traceback(text: str, width: int) -> None:
    click.echo("".join(f"{'':{width}}    {line}\n" for line in text.splitlines()), nl=False)


def _packs(session: Session) -> list[PackInfo]:
    """The packs that lie there, each as the latest start of a server left it; one that is new is `loading`."""
    app = session.app()
    known = {info.name: info for info in load_packs(app.folders.user / PACKS_FILE)}
    shown = []
    for info in app.packs.found():
        earlier = known.get(info.name)
        if info.state == "disabled":
            info.reason = "left out: its name ends in .disabled, or nodes.disable_custom is set"
        elif earlier is not None and earlier.path == info.path and not _left_out_before(earlier):
            info = earlier
        shown.append(info)
    return shown


def _left_out_before(info: PackInfo) -> bool:
    """It was not wanted at the latest start, and is now."""
    return info.state == "disabled" and not info.reason


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

    taken = {*session.plugins.names(), *type(session.settings).model_fields, *dir(session.settings)}
    try:
        folder = write_plugin(name, Path(path), taken)
    except (NameRefused, OSError) as error:
        raise click.ClickException(str(error)) from error
    python = _here(Path(sys.executable))
    if importlib.util.find_spec("pip") is not None:
        install = f"{python} -m pip install"
    else:  # an environment that uv made
        install = f"uv pip install --python {python}"
    target = shlex.quote(f"{_here(folder)}[test]")
    click.echo(f"Wrote {folder}. Next:\n  {install} -e {target}\n  {python} -m pytest {_here(folder)}")


def _here(path: Path) -> str:
    """A path as one types it in the current directory."""
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return shlex.quote(
        str(path) if path.is_absolute() or path.parts[:1] == ("..",) else f"./{path.as_posix()}"
    )
