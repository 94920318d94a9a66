"""One version, which stands in one place."""

from __future__ import annotations

import re
import subprocess
import sys
from email.parser import BytesParser
from importlib import metadata
from pathlib import Path

import comfyk
from packaging.requirements import Requirement


def test_every_room_takes_the_version_from_the_kernel(room):
    assert "version" not in room.project
    assert "version" in room.project["dynamic"]
    source = room.folder / room.pyproject["tool"]["hatch"]["version"]["path"]
    assert source.resolve() == Path(comfyk.__file__).resolve()


def test_uv_builds_anew_when_the_version_changes(room):
    path = room.pyproject["tool"]["hatch"]["version"]["path"]
    assert {"file": path} in room.pyproject["tool"]["uv"]["cache-keys"]


def test_every_wheel_has_the_version(wheel):
    (name,) = (one for one in wheel.namelist() if one.endswith(".dist-info/METADATA"))
    assert BytesParser().parsebytes(wheel.read(name))["Version"] == comfyk.__version__


def test_what_is_installed_has_the_version(room):
    installed = metadata.version(room.project["name"])
    assert installed == comfyk.__version__, "install again: `make install`, or as CONTRIBUTING.md says"


def test_the_command_tells_the_version():
    ran = subprocess.run(
        [sys.executable, "-m", "comfyk.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert ran.stdout == f"comfyk {comfyk.__version__}\n"


def test_comfyk_asks_for_its_rooms_in_its_own_version():
    requirements = [Requirement(one) for one in metadata.requires("comfyk") or ()]
    assert len(requirements) >= 5
    assert {str(one.specifier) for one in requirements} == {f"=={comfyk.__version__}"}


def test_the_changelog_begins_with_the_version(rooms):
    text = (rooms[0].folder / "CHANGELOG.md").read_text()
    first = re.search(r"^## (\S+) \((unreleased|\d{4}-\d\d-\d\d)\)$", text, re.MULTILINE)
    assert first is not None
    assert first[1] == comfyk.__version__
