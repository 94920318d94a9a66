"""Scripts that plugins put into the UI's page, before its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comfyk import App, hookimpl
from comfyk_frontend.page import is_on_this_server, with_scripts


class Scripts:
    def __init__(self, *scripts: str) -> None:
        self.scripts = scripts
        self.app: App

    @hookimpl
    def comfyk_startup(self, app: App) -> None:
        self.app = app

    @hookimpl
    def comfyk_page_scripts(self) -> tuple[str, ...]:
        return self.scripts


def sources(page: str) -> list[str]:
    return re.findall(r'<script[^>]*\bsrc="([^"]*)"', page)


@pytest.mark.parametrize("path", ["/", "/index.html"])
async def test_scripts_come_before_the_uis_own(start: Callable[..., Any], path: str) -> None:
    client = await start(
        plugins=[Scripts("/extensions/a/first.js"), Scripts("/extensions/b/second.mjs?v=1&w=2")]
    )
    async with client.get(path) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-store"
        page = await response.text()
    found = sources(page)
    assert sorted(found[:2]) == ["/extensions/a/first.js", "/extensions/b/second.mjs?v=1&amp;w=2"]
    assert len(found) > 2
    assert '<script type="module" src="/extensions/b/second.mjs' in page
    assert '<script src="/extensions/a/first.js' in page


async def test_what_leads_elsewhere_is_left_out_and_said_once(
    start: Callable[..., Any], build: Path, caplog: Any
) -> None:
    plugin = Scripts("https://evil.example/x.js", "//evil.example/x.js", "/extensions/fine.js")
    client = await start(plugins=[plugin], frontend__root=str(build))
    for _ in range(2):
        async with client.get("/") as response:
            assert sources(await response.text()) == ["/extensions/fine.js"]
    [info] = [info for info in plugin.app.plugins.infos() if info.name == "plugin0"]
    [error] = info.errors
    assert error.hook == "comfyk_page_scripts"
    assert error.message.endswith("left out: 'https://evil.example/x.js', '//evil.example/x.js'")
    assert caplog.text.count("failed in comfyk_page_scripts") == 1


async def test_a_page_that_changes_is_read_again(start: Callable[..., Any], build: Path) -> None:
    client = await start(plugins=[Scripts("/a.js")], frontend__root=str(build))
    async with client.get("/") as response:
        assert "<title>mine</title>" in await response.text()
    (build / "index.html").write_text("<head><title>new</title></head><body></body>")
    async with client.get("/") as response:
        text = await response.text()
    assert text == '<head><title>new</title><script src="/a.js"></script></head><body></body>'


@pytest.mark.parametrize(
    "script",
    [
        "", "x.js", "./x.js", "../x.js", "//host/x.js", "/\\host/x.js", "\\\\host\\x.js", "http:x.js", "data:,x",
        "javascript:alert(1)", "/x\n.js", "/\t/host/x.js", "/a b.js", "/a\\b.js", " /x.js", "/x\x00.js",
    ],
)  # fmt: skip
def test_these_are_no_paths_on_this_server(script: str) -> None:
    assert not is_on_this_server(script)


def test_what_is_in_a_path_stays_in_its_attribute() -> None:
    script = "/x.js?\"></script><script>alert('1')</script>&amp;<"
    page = with_scripts(b"<head><script src=own.js></script></head>", [script])
    assert page.count(b"<script") == 2
    assert page.count(b"</script>") == 2
    assert page.endswith(b"<script src=own.js></script></head>")
