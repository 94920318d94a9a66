"""The checkout as a whole: its rooms, and what is built of them."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Room:
    """A folder that is a distribution."""

    folder: Path

    @cached_property
    def pyproject(self) -> dict[str, Any]:
        return tomllib.loads((self.folder / "pyproject.toml").read_text())

    @property
    def project(self) -> dict[str, Any]:
        return self.pyproject["project"]

    @property
    def packages(self) -> list[Path]:
        wheel = self.pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]
        return [self.folder / package for package in wheel.get("packages", ())]


def _rooms() -> list[Room]:
    """The root's own distribution, then those below it."""
    below = [*ROOT.glob("*/pyproject.toml"), *ROOT.glob("plugins/*/pyproject.toml")]
    return [Room(path.parent) for path in (ROOT / "pyproject.toml", *sorted(below))]


ROOMS = _rooms()


@pytest.fixture(params=ROOMS, ids=lambda room: room.project["name"], scope="session")
def room(request: pytest.FixtureRequest) -> Room:
    return request.param


@pytest.fixture(scope="session")
def rooms() -> list[Room]:
    return ROOMS


@pytest.fixture(scope="session")
def wheel(room: Room, tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    """The room's wheel, built as `make dist` builds it: by way of the sdist."""
    import uv

    folder = tmp_path_factory.mktemp("dist")
    command = [uv.find_uv_bin(), "build", "--quiet", "--no-build-isolation", "--python", sys.executable]
    subprocess.run([*command, "--out-dir", str(folder), str(room.folder)], cwd=ROOT, check=True)
    (path,) = folder.glob("*.whl")
    return ZipFile(path)
