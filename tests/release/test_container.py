"""The container's files: what can be tried without a builder of containers."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")


def instruction(name: str) -> str:
    """What the last instruction of this name says."""
    return re.findall(rf"^{name} (.+)$", DOCKERFILE, re.MULTILINE)[-1]


def test_it_does_not_run_as_root_and_keeps_its_data_outside() -> None:
    assert instruction("USER") == "comfyk" and instruction("VOLUME") == "/data"
    assert "COMFYK_FOLDERS__BASE=/data" in instruction("ENV")


def test_what_is_built_is_there_and_allowed_in() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for path in allowed:
        assert (ROOT / path).exists(), path
    needed = {
        "constraints.txt",
        "kernel",
        "plugins",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "release/hatch_build.py",
    }
    assert needed <= set(allowed), "the distribution `comfyk` is built of these"


def test_its_health_is_that_of_the_server(tmp_path: Path) -> None:
    """With the container's own variables and command, on another port and folder."""
    check = json.loads(instruction("HEALTHCHECK").partition("CMD ")[2])
    given = dict(part.split("=", 1) for part in instruction("ENV").split() if part.startswith("COMFYK_"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COMFYK_")}
    environment = {**kept, **given, "COMFYK_FOLDERS__BASE": str(tmp_path), "COMFYK_HTTP__PORT": "0"}
    command = [sys.executable, "-m", *json.loads(instruction("CMD"))]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = next(found[1] for line in server.stdout if (found := re.search(r":(\d+)$", line.strip())))
            healthy = [sys.executable, *check[1:-1], check[-1].replace("8188", port)]
            assert subprocess.run(healthy, timeout=60).returncode == 0, "it asks for a token, and lives"
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    assert subprocess.run(healthy, stderr=subprocess.DEVNULL, timeout=60).returncode != 0


@pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker here")
def test_compose_reads_its_file() -> None:
    read = subprocess.run(
        ["docker", "compose", "--profile", "cuda", "config", "--format", "json"],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if "is not a docker command" in read.stderr or "unknown" in read.stderr:
        pytest.skip("there is no compose here")
    assert read.returncode == 0, read.stderr
    services = json.loads(read.stdout)["services"]
    assert services["comfyk"]["build"]["args"]["TORCH"] == "cpu"
    assert services["comfyk-cuda"]["build"]["args"]["TORCH"] == "cu130"
    assert all(service["volumes"][0]["target"] == "/data" for service in services.values())
