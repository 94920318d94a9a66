"""`comfyk settings`: what is set, by what, and what could be."""

from __future__ import annotations

import json

import click

from comfyk.commands.session import Session


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


def _toml(value: object) -> str:
    import tomlkit

    return tomlkit.item(value).as_string() if not isinstance(value, list) else _list(value)


def _list(values: list[object]) -> str:
    import tomlkit

    array = tomlkit.array()
    for value in values:
        if isinstance(value, dict):
            table = tomlkit.inline_table()
            table.update(value)
            value = table
        array.append(value)
    return array.as_string()
