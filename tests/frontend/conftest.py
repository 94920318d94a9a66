"""A server with the http and frontend plugins, in this process, on a free port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import comfyk_frontend.plugin
import comfyk_http.plugin
import pytest
from comfyk.app import App
from comfyk.plugins import Plugins
from comfyk.settings import load_settings
from comfyk_http.plugin import server_of


@asynccontextmanager
async def serving(
    base: Path, plugins: Iterable[object] = (), **overrides: Any
) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of a server on this base folder. `frontend__root=...` is the setting `frontend.root`."""
    loaded = Plugins()
    loaded.register(comfyk_frontend.plugin, "frontend")
    loaded.register(comfyk_http.plugin, "http")
    for index, plugin in enumerate(plugins):
        loaded.register(plugin, f"plugin{index}")
    settings = {"folders.base": str(base), "http.port": 0}
    settings |= {key.replace("__", "."): value for key, value in overrides.items()}
    app = App(load_settings(loaded, overrides=settings), loaded)
    async with app:
        await app.serve()
        async with aiohttp.ClientSession(server_of(app).url) as client:
            yield client


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """`client = await start(frontend__root=folder)`."""
    async with AsyncExitStack() as stack:

        async def start(**overrides: Any) -> aiohttp.ClientSession:
            return await stack.enter_async_context(serving(tmp_path / "base", **overrides))

        yield start


@pytest.fixture
async def client(start: Callable[..., Any]) -> aiohttp.ClientSession:
    """A client of a server with the installed web UI."""
    return await start()


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A build of a web UI, as a developer has it, beside a file that is none of its."""
    root = tmp_path / "build"
    for name, text in {
        "index.html": "<!doctype html><title>mine</title>",
        "assets/index-B2rHQ9Sn.js": "export {}",
        "assets/images/icon-logo-192.png": "png",
        "extensions/core/thing.js": "export {}",
        "scripts/app.js": "export {}",
        "prompt": "not the operation",
        ".env": "SECRET=1",
        "../secret.txt": "secret",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root
