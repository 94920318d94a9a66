"""Build what is released into `dist/`, and show that it works where nothing else is installed.

Every distribution becomes an sdist, and a wheel made from that sdist, by the build backend that `constraints.txt`
pins, so that anyone gets the same bytes. The wheels go into two empty environments, without an index for our own
names: all of them, where a workflow runs; and kernel, http and storage, which make a server without torch.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uv
from constraints import ROOT, pins
from packaging.utils import canonicalize_name
from PIL import Image

DIST = ROOT / "dist"
WITHOUT_TORCH = ("comfyk_kernel", "comfyk_http", "comfyk_storage")
PATIENCE = 120  # seconds, for a start on a busy machine

# What an environment holds, asked of its own Python: name, version, and the file that it came from.
LIST = """
import json
from importlib.metadata import distributions
print(json.dumps([(d.metadata["Name"], d.version, d.read_text("direct_url.json")) for d in distributions()]))
"""


class Environment:
    """An empty virtual environment in a folder of its own, where commands run and servers start."""

    def __init__(self, folder: Path, wheels: list[Path]) -> None:
        self.folder = folder
        self.binaries = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        # Nothing of the checkout: no path to it, no settings of ours.
        self.variables = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("COMFYK_", "PYTHON")) and name != "VIRTUAL_ENV"
        }
        venv.create(folder / "venv", with_pip=False)
        pip = [sys.executable, "-m", "pip", "--python", str(self.binaries / "python"), "--quiet"]
        pip += ["--disable-pip-version-check", "install", "-c", str(ROOT / "constraints.txt")]
        subprocess.run([*pip, *map(str, wheels)], cwd=folder, check=True)
        subprocess.run([*pip[:-3], "check"], cwd=folder, check=True)
        self._hold_to_pins({wheel.name for wheel in wheels})

    def _hold_to_pins(self, wheels: set[str]) -> None:
        pinned = pins()
        for name, version, direct_url in json.loads(self.run("python", "-c", LIST)):
            if name.startswith("comfyk"):
                origin = json.loads(direct_url or "{}").get("url", "")
                assert origin.rpartition("/")[2] in wheels, f"{name} came from {origin or 'an index'}"
            else:
                specifiers = pinned.get(canonicalize_name(name))
                assert specifiers is not None, f"constraints.txt lacks {name} {version}: make constraints"
                assert any(version in one for one in specifiers), f"{name} {version} is not the pinned one"

    def run(self, command: str, *arguments: str) -> str:
        ran = subprocess.run(
            [self.binaries / command, *arguments],
            cwd=self.folder,
            env=self.variables,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=PATIENCE,
        )
        return ran.stdout

    @contextmanager
    def server(self) -> Iterator[Callable[..., bytes]]:
        """A running server, as a function that fetches a path of it."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]

        def fetch(path: str, body: Any = None) -> bytes:
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data)
            request.add_header("Content-Type", "application/json")
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:  # noqa: S310
                return response.read()

        command = [self.binaries / "comfyk", "start", "--base-directory", "server", "--port", str(port)]
        with subprocess.Popen(command, cwd=self.folder, env=self.variables) as process:
            try:
                _until(lambda: _answers(process, fetch))
                yield fetch
            finally:
                process.terminate()


def _until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if answer := condition():
            return answer
        time.sleep(0.1)
    raise TimeoutError(f"not within {PATIENCE} s")


def _answers(process: subprocess.Popen[bytes], fetch: Callable[..., bytes]) -> bool:
    assert process.poll() is None, f"the server ended with {process.returncode}"
    try:
        return bool(fetch("/system_stats"))
    except OSError:
        return False


def build() -> list[Path]:
    """Build all distributions, and return the wheels."""
    shutil.rmtree(DIST, ignore_errors=True)
    command = [uv.find_uv_bin(), "build", "--quiet", "--all-packages", "--no-build-isolation"]
    subprocess.run([*command, "--python", sys.executable, "--out-dir", str(DIST)], cwd=ROOT, check=True)
    return sorted(DIST.glob("*.whl"))


def try_all(environment: Environment, version: str) -> None:
    assert environment.run("comfyk", "--version").strip() == f"comfyk {version}"
    for plugin in json.loads(environment.run("comfyk", "plugin", "list", "--json")):
        assert not plugin["errors"], plugin
        assert plugin["version"] in (version, None), plugin
    workflow = ROOT / "release" / "workflow.json"
    environment.run("comfyk", "run", str(workflow), "--output", "pictures")
    _check_picture(environment.folder / "pictures")
    with environment.server() as fetch:
        assert b"<html" in fetch("/").lower()
        prompt_id = json.loads(fetch("/prompt", {"prompt": json.loads(workflow.read_text())}))["prompt_id"]
        history = _until(lambda: json.loads(fetch(f"/history/{prompt_id}")).get(prompt_id))
        assert history["status"]["status_str"] == "success", history["status"]
    _check_picture(environment.folder / "server" / "output")


def _check_picture(folder: Path) -> None:
    (path,) = folder.glob("dist_*.png")
    with Image.open(path) as picture:
        assert picture.size == (96, 64)
        colour = picture.resize((1, 1)).tobytes()
        assert (
            max(abs(a - b) for a, b in zip(colour, b"\xcc\x99\x66", strict=True)) <= 1
        )  # 0x336699, inverted


def try_without_torch(environment: Environment, version: str) -> None:
    plugins = json.loads(environment.run("comfyk", "plugin", "list", "--json"))
    assert not any(plugin["errors"] for plugin in plugins), plugins
    with environment.server() as fetch:
        assert json.loads(fetch("/system_stats"))["system"]["comfyk_version"] == version
        assert json.loads(fetch("/queue"))["queue_pending"] == []
    assert not any(path.name == "torch" for path in environment.folder.glob("venv/**/site-packages/*"))


def main() -> None:
    began = time.perf_counter()

    def report(text: str) -> None:
        print(f"{time.perf_counter() - began:6.1f} s  {text}", flush=True)

    wheels = build()
    (version,) = {wheel.name.split("-")[1] for wheel in wheels}
    report(f"built {len(wheels)} distributions of {version} in dist/")
    with tempfile.TemporaryDirectory(prefix="comfyk-dist-") as temporary:
        for name, chosen, attempt in (
            ("without torch", [w for w in wheels if w.name.startswith(WITHOUT_TORCH)], try_without_torch),
            ("all of it", wheels, try_all),
        ):
            folder = Path(temporary, name.replace(" ", "-"))
            folder.mkdir()
            environment = Environment(folder, chosen)
            report(f"{name}: installed")
            attempt(environment, version)
            report(f"{name}: works")


if __name__ == "__main__":
    main()
