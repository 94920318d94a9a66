"""`comfyk doctor`: what is wrong with the installation, and what to do about it."""

from __future__ import annotations

import json
import logging
import textwrap
from dataclasses import asdict

import click

from comfyk.commands.session import Session
from comfyk.diagnosis import DOCTOR
from comfyk.doctor import Finding, Severity
from comfyk.settings import SettingsError

_HEADINGS: dict[Severity, str] = {"error": "Errors", "warning": "Warnings", "info": "Good to know"}


@click.command(short_help="Say what is wrong with the installation, and what to do.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Say what is wrong with the installation, and what to do about it.

    Nothing is changed, and a server may run meanwhile. Exits with 1 when something does not work.
    """
    for name in ("comfyk.plugins", "comfyk.packs"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # all of it is printed below
    logging.getLogger("comfyk.generation").setLevel(logging.ERROR)
    try:
        found = _examine(ctx, ctx.obj)
    except SettingsError as error:
        remedy = "Mend it; what else is wrong can only be seen then."
        found = [("kernel", Finding("error", problem, remedy)) for problem in error.problems]
    severities = list(_HEADINGS)
    found.sort(key=lambda one: severities.index(one[1].severity))
    click.echo(_as_json(found) if as_json else _as_text(found))
    if any(finding.severity == "error" for _, finding in found):
        ctx.exit(1)


def _examine(ctx: click.Context, session: Session) -> list[tuple[str, Finding]]:
    """What the plugins find, on an app that never starts and has no node packs, each with the plugin's name."""
    app = session.app({"nodes.disable_custom": True, "nodes.whitelist": []})
    app.register()
    for hook in ("comfyk_register_routes", "comfyk_register_middlewares"):
        getattr(app.hook, hook)()
    group = ctx.find_root().command
    assert isinstance(group, click.Group)
    group.list_commands(ctx.find_root())
    found = [(plugin, finding) for plugin, findings in app.hook.each(DOCTOR) for finding in findings]
    for info in session.plugins.infos():
        for error in info.errors:
            if error.hook == DOCTOR:
                message = f"The plugin {info.name} cannot say what is wrong with it: {error.message}"
                remedy = f"Tell its author, with this traceback:\n{error.traceback}".strip()
                found.append((info.name, Finding("error", message, remedy)))
    return found


def _as_json(found: list[tuple[str, Finding]]) -> str:
    return json.dumps([{"plugin": plugin, **asdict(finding)} for plugin, finding in found], indent=2)


def _as_text(found: list[tuple[str, Finding]]) -> str:
    """`found` in its order, under a heading for each severity."""
    if not found:
        return "Nothing is wrong."
    blocks: list[str] = []
    for severity, heading in _HEADINGS.items():
        these = [one for one in found if one[1].severity == severity]
        if not these:
            continue
        blocks.append(f"{heading}:")
        for plugin, finding in these:
            blocks.append(textwrap.indent(f"{plugin}: {finding.message}", "  "))
            if finding.remedy:
                blocks.append(textwrap.indent(f"-> {finding.remedy}", "     "))
        blocks.append("")
    return "\n".join(blocks[:-1])
