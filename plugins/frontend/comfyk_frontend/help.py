"""Where help is to be had: the addresses that comfyk knows of itself, and a page of its own, `/help`."""

from __future__ import annotations

import re
from html import escape
from importlib import metadata
from typing import TYPE_CHECKING

import comfyk

from comfyk_frontend import packages
from comfyk_frontend.settings import FrontendSettings

if TYPE_CHECKING:
    from aiohttp import web

PATH = "/help"
_LABELS = {
    "issues": ("issues", "issue tracker", "bug tracker", "bugs", "tracker"),
    "home": ("homepage", "home", "repository", "source", "source code"),
}
_TITLES = {"help": "Help with this server", "issues": "Known issues, and new ones", "home": "The project"}
_LONGEST = 2000
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
}
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>comfyk: help</title>
<style>body { font: 16px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 3rem auto; padding: 0 1rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #8882; padding: .5rem; }</style>
<h1>comfyk @VERSION@</h1>
<p>The web UI is the official one of ComfyUI@UI@; the server behind it is comfyk. Its makers cannot help with it.</p>
@SEARCHED@<h2>When something does not work</h2>
<ul>
<li>The log says more: the panel at the bottom of the web UI (<em>Toggle Bottom Panel</em>), or where the server was
started. <code>comfyk start --verbose</code> makes it say still more.</li>
<li><code>comfyk doctor</code>, on the machine where the server runs, looks at the installation and says what to
do.</li>
<li><code>comfyk plugin list</code> shows the plugins and node packs, and what went wrong in each. What a pack does is
for its own authors.</li>
</ul>
<p>A report is best with the log, the workflow, and what <a href="/system_stats">this server says of
itself</a>.</p>
@LINKS@<p><a href="/docs">The API</a> · <a href="/">Back to the web UI</a></p>
</html>
"""


def links(settings: FrontendSettings) -> dict[str, str | None]:
    """`help`, always an address; `issues` and `home`, where they are known."""
    return {
        "help": _text(settings.help_url) or PATH,
        "issues": _text(settings.issues_url) or _of_distribution("issues"),
        "home": _of_distribution("home"),
    }


def page(request: web.Request, settings: FrontendSettings) -> web.Response:
    """What to do, with what the user was looking for, if the UI says so (`?q=...`)."""
    from aiohttp import web

    searched = request.query.get("q", "").replace(" is:issue", "")[:_LONGEST]
    ui = packages.version(packages.UI)
    known = {label: url for label, url in links(settings).items() if url is not None and url != PATH}
    filled = {
        "VERSION": escape(comfyk.__version__),
        "UI": f" ({escape(ui)})" if ui is not None else "",
        "SEARCHED": f"<p>You were looking for:</p><pre>{escape(searched)}</pre>\n" if searched else "",
        "LINKS": "".join(
            f'<p><a href="{escape(url)}" rel="noreferrer">{escape(_TITLES[label])}</a></p>\n'
            for label, url in known.items()
        ),
    }
    text = re.sub(r"@([A-Z]+)@", lambda place: filled[place[1]], _PAGE)
    return web.Response(text=text, content_type="text/html", headers=_HEADERS)


def _text(url: object) -> str | None:
    return None if url is None else str(url)


def _of_distribution(kind: str) -> str | None:
    """An address that the installed distribution gives (`Project-URL: Issues, https://...`)."""
    for name in ("comfyk", "comfyk-kernel"):
        try:
            stated = metadata.metadata(name).get_all("Project-URL") or []
        except metadata.PackageNotFoundError:
            continue
        for entry in stated:
            label, _, url = entry.partition(",")
            if label.strip().lower() in _LABELS[kind] and url.strip().startswith("https://"):
                return url.strip()
    return None
