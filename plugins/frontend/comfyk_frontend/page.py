"""The UI's page, with the scripts that plugins want loaded before its own (`comfyk_page_scripts`)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from html import escape
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web
from comfyk import App

from comfyk_frontend.ui_files import answer

_SCRIPT = re.compile(rb"<script[\s>]", re.IGNORECASE)
_HEAD_ENDS = re.compile(rb"</head>|<body[\s>]", re.IGNORECASE)


class Page:
    """`index.html` of one build of the UI."""

    def __init__(self, app: App, path: Path) -> None:
        self.path = path
        self._app = app
        self._refused: dict[str, list[str]] = {}
        """What was recorded, by plugin."""

    def scripts(self) -> list[str]:
        """What plugins want to be loaded. What leads to another server is recorded as the plugin's error."""
        wanted: dict[str, None] = {}
        for plugin, scripts in self._app.hook.each("comfyk_page_scripts"):
            wanted |= dict.fromkeys(script for script in scripts if is_on_this_server(script))
            refused = [script for script in scripts if not is_on_this_server(script)]
            if refused and self._refused.get(plugin) != refused:
                self._refused[plugin] = refused
                listed = ", ".join(map(repr, refused))
                error = ValueError(
                    f"no paths on this server, such as /extensions/..., and left out: {listed}"
                )
                self._app.plugins.record(plugin, "comfyk_page_scripts", error)
        return list(wanted)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The page. No browser keeps it: it names files that are gone after an update."""
        scripts = self.scripts()
        if not scripts:
            return answer(request, self.path, "index.html")
        whole = with_scripts(await asyncio.to_thread(self.path.read_bytes), scripts)
        headers = {"Cache-Control": "no-store"}
        return web.Response(body=whole, content_type="text/html", charset="utf-8", headers=headers)


def is_on_this_server(script: str) -> bool:
    """Whether it is an absolute path that no browser takes for another server's address."""
    if (
        not script.startswith("/")
        or script.startswith(("//", "/\\"))
        or not script.isprintable()
        or " " in script
    ):
        return False
    try:
        parts = urlsplit(script)
    except ValueError:
        return False
    return not parts.scheme and not parts.netloc and "\\" not in parts.path


def with_scripts(page: bytes, scripts: Iterable[str]) -> bytes:
    """The page with script tags before the first of its own: they run in this order, and before it.

    `.mjs` files are loaded as modules, others as classic scripts; a page without scripts gets them at the head's end.
    """
    tags = b"".join(_tag(script) for script in scripts)
    place = _SCRIPT.search(page) or _HEAD_ENDS.search(page)
    at = len(page) if place is None else place.start()
    return page[:at] + tags + page[at:]


def _tag(script: str) -> bytes:
    kind = ' type="module"' if urlsplit(script).path.endswith(".mjs") else ""
    return f'<script{kind} src="{escape(script)}"></script>'.encode()
