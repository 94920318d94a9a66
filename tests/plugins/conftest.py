"""The example plugins, installed as distributions: built, and found by their entry points."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

HERE = Path(__file__).parent


@pytest.fixture
def receive() -> Callable[..., Any]:
    """`await receive(socket)`: the next message. The test fails when the server closes the socket instead."""

    async def receive(socket: aiohttp.ClientWebSocketResponse, timeout: float = 60) -> aiohttp.WSMessage:
        message = await socket.receive(timeout=timeout)
        assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
        return message

    return receive


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`installed("restart")` installs the example of that folder; returns the folder to put on PYTHONPATH."""
    done: dict[str, Path] = {}

    def install(name: str) -> Path:
        if name not in done:
            site = tmp_path_factory.mktemp(name)
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            options = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(site)]
            subprocess.run([*command, *options, str(HERE / name)], check=True)
            done[name] = site
        return done[name]

    return install
