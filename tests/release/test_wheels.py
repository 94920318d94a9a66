"""What a wheel must contain, and what not."""

from __future__ import annotations

import subprocess
from email.parser import BytesParser

import pytest


def tracked(folder):
    listed = subprocess.run(["git", "ls-files", "-z", "."], cwd=folder, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return {name for name in listed.stdout.split("\0") if name and (folder / name).exists()}


def test_a_wheel_holds_its_packages_whole_and_nothing_else(room, wheel):
    expected = {f"{package.name}/{name}" for package in room.packages for name in tracked(package)}
    files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert expected - files == set(), "not in the wheel"
    assert files - expected == set(), "not in git"
    assert not any("test" in part for name in files for part in name.split("/")[:-1])


def test_a_wheel_holds_the_licence(room, rooms, wheel):
    licence = (rooms[0].folder / "LICENSE").read_bytes()
    inside = room.folder / "LICENSE"
    assert inside.is_file(), "hatchling looks in the room only: copy LICENSE there"
    assert inside.read_bytes() == licence
    (name,) = (one for one in wheel.namelist() if one.endswith(".dist-info/licenses/LICENSE"))
    assert wheel.read(name) == licence


def test_a_wheel_says_what_it_is(room, wheel):
    (name,) = (one for one in wheel.namelist() if one.endswith(".dist-info/METADATA"))
    metadata = BytesParser().parsebytes(wheel.read(name))
    assert metadata["Name"] == room.project["name"]
    assert metadata["Summary"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"


def test_packages_are_typed(room):
    """Without `py.typed` a type checker takes all that a plugin imports from it for `Any`."""
    for package in room.packages:
        assert (package / "py.typed").is_file(), f"{package.name} has no py.typed"
