"""What `make start` would do on a fresh clone, without doing it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The parts of the repository that `make` looks at, without a virtual environment."""
    root = Path(__file__).parents[2]
    for path in ("Makefile", "constraints.txt", "pyproject.toml", "kernel/comfyk/__init__.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / path, tmp_path / path)
    for project in [*root.glob("*/pyproject.toml"), *root.glob("plugins/*/pyproject.toml")]:
        target = tmp_path / project.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(project, target)
    return tmp_path


def planned(clone: Path, *arguments: str) -> list[str]:
    """The command lines, in order."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "-n", *arguments], cwd=clone, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def place(lines: list[str], *words: str) -> int:
    """Which of the lines has all these words."""
    (found,) = (number for number, line in enumerate(lines) if all(word in line for word in words))
    return found


def test_it_shows_what_pip_does_and_installs_every_room(clone: Path) -> None:
    lines = planned(clone, "start")
    install = place(lines, "pip", "install", "-c constraints.txt")
    assert "--quiet" not in lines[install] and " -q " not in lines[install]
    assert place(lines, "echo", "The first time") < install < place(lines, "comfyk start")
    for project in clone.glob("plugins/*/pyproject.toml"):
        assert f"-e {project.parent.relative_to(clone).as_posix()}" in lines[install]


def test_another_build_of_torch_comes_before_the_rest_and_once(clone: Path) -> None:
    lines = planned(clone, "start", "TORCH=cu130")
    torch = place(lines, "pip", "--extra-index-url", "/whl/cu130", "torch")
    assert place(lines, "uninstall", "torch") < torch < place(lines, "pip", "install", "-e kernel")
    (clone / ".venv").mkdir()
    for done in (".torch-cu130", ".installed"):
        (clone / ".venv" / done).touch()
    assert [line for line in planned(clone, "start", "TORCH=cu130") if "pip" in line] == []
    assert place(planned(clone, "start", "TORCH=cpu"), "/whl/cpu") >= 0
    assert [line for line in planned(clone, "start") if "pip" in line] == []
