"""Which event loop a server gets from the settings."""

from __future__ import annotations

import asyncio
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import comfyk_http.plugin
import pytest
from comfyk.plugins import Plugins
from comfyk.settings import load_settings


def loop_of(base: Path, wanted: str | None) -> tuple[asyncio.AbstractEventLoop, Plugins]:
    plugins = Plugins()
    plugins.register(comfyk_http.plugin, "http")
    overrides: dict[str, Any] = {"folders.base": base}
    if wanted is not None:
        overrides["http.event_loop"] = wanted
    settings = load_settings(plugins, overrides=overrides)
    return plugins.call("comfyk_create_event_loop", settings=settings), plugins


@pytest.mark.skipif(sys.platform == "win32", reason="there is no uvloop for Windows")
@pytest.mark.parametrize(
    ("wanted", "made_by"), [(None, "uvloop"), ("uvloop", "uvloop"), ("asyncio", "asyncio.unix_events")]
)
def test_the_setting_chooses(tmp_path: Path, wanted: str | None, made_by: str) -> None:
    loop, _ = loop_of(tmp_path, wanted)
    with closing(loop):
        assert type(loop).__module__ == made_by
        assert loop.run_until_complete(asyncio.sleep(0, "ran")) == "ran"


@pytest.mark.parametrize(("wanted", "wrong"), [("auto", []), ("uvloop", ["http.event_loop is uvloop"])])
def test_without_uvloop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str, wrong: list[str]
) -> None:
    """There is none for Windows: asyncio's loop runs the server, and a setting that asks for more is told of."""
    monkeypatch.setitem(sys.modules, "uvloop", None)  # what makes `import uvloop` fail
    loop, plugins = loop_of(tmp_path, wanted)
    with closing(loop):
        assert type(loop).__module__.startswith("asyncio.")
    messages = [error.message for info in plugins.infos() for error in info.errors]
    assert [message.partition(",")[0] for message in messages] == [f"ImportError: {text}" for text in wrong]
