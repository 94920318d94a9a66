"""The example plugins, installed as distributions: built, and found by their entry points."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent


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
