"""`comfyk settings`: what is set, by what, and what could be."""

from __future__ import annotations

import json

import click

from comfyk.commands.session import Session
from comfyk.config_file import toml_item
from comfyk.settings import Settings


@click.group(short_help="Show the settings and their schema.")
def settings() -> None:
    """Show the settings and their schema."""


@settings.command()
@click.pass_obj
def show(session: Session) -> None:
    """Show every setting with its value and what gave it that value, as it could stand in comfyk.toml."""
    loaded = session.settings
    for section, values in loaded.model_dump(mode="json").items():
        click.echo(f"[{section}]")
        for name, value in values.items():
            source = loaded.source(f"{section}.{name}")
            line = f"# {name} is unset" if value is None else f"{name} = {_toml(value)}"
            click.echo(line if source == "default" else f"{line}  # {source}")
        click.echo()


@settings.command()
@click.pass_obj
def schema(session: Session) -> None:
    """Print the JSON schema of comfyk.toml, with the sections of all enabled plugins."""
    click.echo(json.dumps(type(session.settings).model_json_schema(), indent=2))


@settings.command("set")
@click.argument("key", metavar="SECTION.KEY")
@click.argument("value")
@click.pass_obj
def set_(session: Session, key: str, value: str) -> None:
    """Write a value into comfyk.toml, whose comments stay. A list is `a,b` or JSON; `null` is no value."""
    settings = session.settings
    _write(session, settings, key, value)


@settings.command()
@click.argument("key", metavar="SECTION.KEY")
@click.pass_obj
def unset(session: Session, key: str) -> None:
    """Take a key out of comfyk.toml, so that it has its default again."""
    _write(session, session.settings, key, None)


def _write(session: Session, settings: Settings, key: str, value: str | None) -> None:
    try:
        settings.change(key, value)
    except OSError as error:
        raise click.ClickException(f"{session.config_file}: {error.strerror}") from error
    section, _, name = key.partition(".")
    now = getattr(settings.section(section), name)
    click.echo(f"{key} is {now!r} from the next start on ({session.config_file})")


def _toml(value: object) -> str:
    return toml_item(value).as_string()
