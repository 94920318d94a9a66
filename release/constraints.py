"""Write `constraints.txt`: a version of every package that `make install-dev` installs, on any system.

    make constraints                              # adds and removes what pyproject.toml files ask for, keeps the rest
    make constraints ARGS="--upgrade"             # the newest of everything but torch
    make constraints ARGS="-P aiohttp -P torch==2.13.0"    # the newest of one, a given one of another

It is uv that resolves, for every system and Python at once. What stands in the file is preferred, options are
passed to `uv pip compile`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import uv
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import NormalizedName, canonicalize_name

ROOT = Path(__file__).parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
HEADER = """\
# A version of everything that is installed here, for pip and uv alike; `make constraints` writes it, see
# release/constraints.py. torch's own CUDA packages are left to torch: not each of its builds has them.
"""
LEFT_OUT = re.compile(r"-e |(nvidia|cuda)-|triton\b|.* == 'emscripten'")


def pins() -> dict[NormalizedName, list[SpecifierSet]]:
    """What `constraints.txt` allows of each package: one version, or one for each of several Pythons."""
    allowed = defaultdict(list)
    for line in CONSTRAINTS.read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate():
                allowed[canonicalize_name(requirement.name)].append(requirement.specifier)
    return allowed


def main(options: list[str]) -> None:
    held = []
    if "--upgrade" in options or "-U" in options:
        # Each newer torch is gigabytes, and other pictures: never in passing.
        held = [line for line in CONSTRAINTS.read_text().splitlines() if line.startswith("torch==")]
    projects = [ROOT / "pyproject.toml"]
    projects += sorted([*ROOT.glob("*/pyproject.toml"), *ROOT.glob("plugins/*/pyproject.toml")])
    with tempfile.TemporaryDirectory() as folder:
        extra = Path(folder, "extra.in")
        extra.write_text("pip\n")  # a virtual environment's own, which make brings up to date
        hold = Path(folder, "hold.txt")
        hold.write_text("\n".join(held))
        output = Path(folder, "constraints.txt")
        output.write_text(CONSTRAINTS.read_text())
        command = [uv.find_uv_bin(), "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"]
        command += ["--no-annotate", "--no-header", "--group", "dev"]
        command += ["--constraints", str(hold), "--output-file", str(output), *options, str(extra)]
        subprocess.run([*command, *map(str, projects)], cwd=ROOT, check=True)
        lines = [line for line in output.read_text().splitlines() if not LEFT_OUT.match(line)]
    CONSTRAINTS.write_text(HEADER + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
