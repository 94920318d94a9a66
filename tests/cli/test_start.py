"""`comfyk start`: what it takes, how it refuses, and how it stops."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest


def test_the_quick_test_starts_and_ends(comfyk) -> None:
    done = comfyk("start", "--quick-test-for-ci", "--cpu", "--use-sage-attention", "--cache-lru", "3")
    assert done.returncode == 0, done.stderr
    assert "--use-sage-attention is an option of ComfyUI that no plugin here takes" in done.stderr
    assert "--cpu" not in done.stderr


def test_what_start_needs_not_is_not_imported(environment, tmp_path: Path) -> None:
    code = (
        "import sys, runpy\nsys.argv = ['comfyk', 'start', '--help']\n"
        "try: runpy.run_module('comfyk', run_name='__main__')\nexcept SystemExit: pass\n"
        "print(sorted({'rich', 'tomlkit', 'torch', 'numpy', 'PIL', 'sqlalchemy', 'aiohttp'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stdout


def test_help_lists_the_options_of_all_sections(comfyk) -> None:
    text = comfyk("start", "--help").stdout
    assert "The port to listen on" in " ".join(text.split())  # a field's docstring describes it
    for option in ("--base-directory", "--port", "--listen", "--cache-ram", "--verbose", "--lowvram"):
        assert option in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--prot", "1"], 2, "there is no option --prot; did you mean '--port'?"),
        (["--port"], 2, "--port needs an argument"),
        (["--port", "high"], 1, "--port: http.port: 'high': Input should be a valid integer"),
        (["--set", "http.prt=1"], 1, "--set http.prt=1: there is no key http.prt; did you mean 'port'?"),
        (["--config", "none.toml"], 1, "--config: there is no file"),
        (["--set", "plugins.disabled=http,core-nodes"], 1, "no plugin that serves clients is enabled"),
        (
            ["--set", "plugins.disabled=http,core-nodes", "--port", "0"],
            1,
            "(one not loaded may: core-nodes, http)",
        ),
        (["--listen", '["::1"]'], 1, "--listen: http.listen: '[\"::1\"]': '[\"::1\"]' is no address"),
        (["--verbose", "INFO", "/dev/null/x.log"], 1, "/dev/null"),
    ],
)
def test_a_mistake_is_one_clear_line(comfyk, arguments: list[str], code: int, message: str) -> None:
    done = comfyk("start", *arguments)
    assert done.returncode == code, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr


def test_the_file_in_the_base_directory_is_read(comfyk, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "comfyk.toml").write_text("[http]\n\nprot = 1\n")
    done = comfyk("start", "--quick-test-for-ci", "--base-directory", "base")
    assert f"{base / 'comfyk.toml'}, line 3: there is no key http.prot" in done.stderr


def test_it_serves_until_it_is_told_to_stop(tmp_path: Path, environment) -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "comfyk", "start", "--port", "0", "--log-stdout"],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        url = next(line.split()[-1] for line in server.stdout if "http://" in line)
        with urllib.request.urlopen(f"{url}/features", timeout=10) as answer:
            assert answer.status == 200
        server.send_signal(signal.SIGTERM)
        out, err = server.communicate(timeout=30)
        assert server.returncode == 0, err
        assert "stopping" in out and err == ""
    finally:
        server.kill()
