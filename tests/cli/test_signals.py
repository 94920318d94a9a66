"""Ctrl-C: once stops in good order, twice stops at once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a process cannot be sent SIGINT there")

PACK = """
import pathlib, time
from comfyk import progress
class Slow:
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"deaf": ("BOOLEAN", {})}}
    def run(self, deaf):
        pathlib.Path("begun").touch()
        if deaf:
            time.sleep(60)
        for step in range(600):
            time.sleep(0.1)
            progress(step, 600)
        return ()
NODE_CLASS_MAPPINGS = {"Slow": Slow}
"""


def prompt(deaf: bool) -> dict[str, object]:
    return {"1": {"class_type": "Slow", "inputs": {"deaf": deaf}}}


@pytest.fixture
def popen(tmp_path: Path, environment):
    (tmp_path / "custom_nodes").mkdir()
    (tmp_path / "custom_nodes" / "slow.py").write_text(PACK)
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "comfyk", *arguments],
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            # What runs the tests in the background may ignore SIGINT, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 30
    while not file.exists():
        assert time.monotonic() < deadline, f"{file} did not come"
        time.sleep(0.02)


def test_ctrl_c_ends_a_run_with_130(popen, tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text(json.dumps(prompt(deaf=False)))
    process = popen("run", "w.json")
    wait_for(tmp_path / "begun")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "interrupted" in errors and "Traceback" not in errors


def test_the_second_ctrl_c_ends_a_server_whose_node_does_not_listen(popen, tmp_path: Path) -> None:
    server = popen("start", "--port", "0")
    url = next(line.split()[-1] for line in server.stdout if "http://" in line)
    body = json.dumps({"prompt": prompt(deaf=True)}).encode()
    urllib.request.urlopen(
        urllib.request.Request(f"{url}/prompt", body, {"Content-Type": "application/json"})
    )
    wait_for(tmp_path / "begun")
    server.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        server.wait(timeout=1)
    server.send_signal(signal.SIGINT)
    assert server.wait(timeout=5) == 130


def test_ctrl_c_ends_a_start_that_a_plugin_holds_up(popen, tmp_path: Path, environment) -> None:
    """Though a KeyboardInterrupt that the plugin raises itself would not."""
    site = tmp_path / "site"
    info = site / "slow-1.dist-info"
    info.mkdir(parents=True)
    (site / "slow.py").write_text("import pathlib, time\npathlib.Path('begun').touch()\ntime.sleep(60)\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: slow\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[comfyk]\nslow = slow\n")
    environment["PYTHONPATH"] = str(site)
    server = popen("start", "--port", "0")
    wait_for(tmp_path / "begun")
    server.send_signal(signal.SIGINT)
    assert server.wait(timeout=10) == 1
