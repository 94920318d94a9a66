"""The `comfyk` command as a user runs it: in a process, in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Comfyk = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment() -> dict[str, str]:
    """The process environment without settings; a test may add to it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COMFYK_")}


@pytest.fixture
def comfyk(tmp_path: Path, environment: dict[str, str]) -> Comfyk:
    """Run `comfyk` with some arguments in `tmp_path`."""

    def run(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "comfyk", *arguments],
            cwd=tmp_path, env=environment, input=stdin, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    return run
