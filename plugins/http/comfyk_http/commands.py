"""`comfyk token` and `comfyk openapi`."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from comfyk_http.tokens import TokenError, Tokens
from comfyk_http.users import Users

if TYPE_CHECKING:
    from comfyk import Session


def _tokens(session: Session) -> Tokens:
    return Tokens(session.settings.make_folders().user)


@click.group(short_help="Tokens that let clients in.")
def token() -> None:
    """Tokens that let clients in. A running server takes changes at once."""


@token.command()
@click.argument("name", default="default")
@click.option("--user", help="The user (id or name) whose requests it lets in, in multi-user mode.")
@click.pass_obj
def create(session: Session, name: str, user: str | None) -> None:
    """Make a token and print it. It is shown only this once."""
    try:
        click.echo(_tokens(session).create(name, None if user is None else _user_id(session, user)))
    except (TokenError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _user_id(session: Session, user: str) -> str:
    users = Users(session.settings.make_folders().user, multi_user=True).names()
    found = [id for id, name in users.items() if user in (id, name)]
    if not found:
        names = ", ".join(repr(name) for name in users.values()) or "none"
        raise click.ClickException(f"there is no user {user!r}; there are: {names}")
    return found[0]


@token.command("list")
@click.pass_obj
def list_tokens(session: Session) -> None:
    """Name the tokens, with the time when each was made, and its user."""
    try:
        found = _tokens(session).all()
    except TokenError as error:
        raise click.ClickException(str(error)) from error
    for one in found:
        of_user = f"\t{one.user}" if one.user is not None else ""
        click.echo(f"{one.name}\t{datetime.fromtimestamp(one.created):%Y-%m-%d %H:%M}{of_user}")
    if not found:
        click.echo("There are no tokens; `comfyk token create NAME` makes one.", err=True)


@token.command()
@click.argument("name")
@click.pass_obj
def revoke(session: Session, name: str) -> None:
    """Take a token back. WebSockets that were opened with it are closed."""
    try:
        _tokens(session).revoke(name)
    except (TokenError, OSError) as error:
        raise click.ClickException(str(error)) from error


@click.command(short_help="Print the OpenAPI document of the server.")
@click.pass_obj
def openapi(session: Session) -> None:
    """Print the OpenAPI 3.1 document of what this installation would serve."""
    import json

    from comfyk_http.openapi import document
    from comfyk_http.routing import described, gather

    app = session.app()
    click.echo(json.dumps(document(described(gather(app))), indent=1))
