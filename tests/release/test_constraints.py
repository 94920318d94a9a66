"""`constraints.txt` pins what is installed, all of it; nothing else does."""

from __future__ import annotations

from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

AGAIN = "`make constraints` writes them anew"


def pins(root):
    lines = (root / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def installed(rooms):
    """Names and versions of everything that the rooms and the group `dev` bring here, transitively."""
    ours = {canonicalize_name(room.project["name"]) for room in rooms}
    waiting = [Requirement(one) for one in [*ours, *rooms[0].pyproject["dependency-groups"]["dev"]]]
    seen = set()
    versions = {}
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            distribution = metadata.distribution(name)
            if name not in ours:
                versions[name] = distribution.version
            for text in distribution.requires or ():
                needed = Requirement(text)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    waiting.append(needed)
    return versions


def test_everything_installed_is_pinned(rooms):
    here = [pin for pin in pins(rooms[0].folder) if pin.marker is None or pin.marker.evaluate()]
    allowed = {canonicalize_name(pin.name): pin.specifier for pin in here}
    versions = {
        name: version
        for name, version in installed(rooms).items()
        if not name.startswith(("nvidia-", "cuda-")) and name != "triton"  # torch's own, see constraints.txt
    }
    assert len(versions) > 90
    assert {name for name in versions if name not in allowed} == set(), AGAIN
    differing = {name: version for name, version in versions.items() if version not in allowed[name]}
    assert differing == {}, f"installed in other versions: `make install-dev`, or {AGAIN}"


def test_pins_are_exact_and_name_no_index(rooms):
    for pin in pins(rooms[0].folder):
        assert pin.url is None
        (specifier,) = pin.specifier
        assert specifier.operator == "==", pin
        assert "*" not in specifier.version, pin
    assert "://" not in (rooms[0].folder / "constraints.txt").read_text()


def test_each_pinned_package_stands_once_for_each_environment(rooms):
    seen = set()
    for pin in pins(rooms[0].folder):
        key = canonicalize_name(pin.name), str(pin.marker)
        assert key not in seen
        seen.add(key)


def test_what_torch_brings_for_cuda_is_not_pinned(rooms):
    names = {canonicalize_name(pin.name) for pin in pins(rooms[0].folder)}
    assert "torch" in names
    assert not [name for name in names if name.startswith(("nvidia-", "cuda-")) or name == "triton"]


def test_pins_stand_nowhere_else(rooms):
    for room in rooms:
        assert "constraint-dependencies" not in room.pyproject.get("tool", {}).get("uv", {})
        groups = room.pyproject.get("dependency-groups", {})
        assert bool(groups) == (room is rooms[0]), "dev dependencies stand in the root's pyproject.toml"
        for text in [
            *room.project.get("dependencies", ()),
            *(one for group in groups.values() for one in group),
        ]:
            assert "==" not in text.partition(";")[0], f"{text}: a range here, the version in constraints.txt"
