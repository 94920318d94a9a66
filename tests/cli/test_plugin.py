"""`comfyk plugin`: writing one, installing it, and switching it off and on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROMPT = '{"1": {"class_type": "Hello", "inputs": {"name": "you"}}}'


def install(project: Path, target: Path, *options: str) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        *options,
        "--target",
        target,
        project,
    ]
    subprocess.run(command, check=True, timeout=300, capture_output=True)


def fake_plugin(site: Path, name: str, code: str) -> None:
    """What pip would have left of a plugin with this module."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[comfyk]\n{name} = {name}_module\n")
    (site / f"{name}_module.py").write_text(code)


@pytest.fixture
def site(tmp_path: Path, environment: dict[str, str]) -> Path:
    """A folder of installed packages that `comfyk` sees besides its own."""
    path = tmp_path / "site"
    path.mkdir()
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(path), environment.get("PYTHONPATH")]))
    return path


def test_a_new_plugin_works_when_installed_and_is_gone_when_disabled(
    comfyk, tmp_path, site, environment
) -> None:
    assert comfyk("plugin", "new", "hello", "--path", "made").returncode == 0
    project = tmp_path / "made" / "hello"
    own_test = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", project], env=environment, cwd=tmp_path, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    assert own_test.returncode == 0, own_test.stdout
    install(project, site)

    [info] = [
        info for info in json.loads(comfyk("plugin", "list", "--json").stdout) if info["name"] == "hello"
    ]
    assert (info["state"], info["errors"], info["distribution"]) == ("enabled", [], "comfyk-hello")
    assert comfyk("hello", "you").stdout == "Hello, you!\n"
    assert comfyk("--set", "hello.greeting=Hi", "hello").stdout == "Hi, world!\n"
    assert json.loads(comfyk("run", "-", "--json", stdin=PROMPT).stdout)["outputs"] == {
        "1": {"text": ["Hello, you!"]}
    }
    assert "[hello]\n" in comfyk("settings", "show").stdout

    (tmp_path / "comfyk.toml").write_text('# mine\n[hello]\ngreeting = "Yo"  # as friends do\n')
    assert comfyk("hello").stdout == "Yo, world!\n"
    assert comfyk("plugin", "disable", "hello").returncode == 0
    assert (
        (tmp_path / "comfyk.toml")
        .read_text()
        .startswith('# mine\n[hello]\ngreeting = "Yo"  # as friends do\n')
    )
    assert comfyk("hello").returncode == 2
    assert comfyk("run", "-", stdin=PROMPT).returncode == 1
    assert "[hello]\n" not in comfyk("settings", "show").stdout
    assert comfyk("start", "--quick-test-for-ci").returncode == 0

    assert comfyk("plugin", "enable", "hello").returncode == 0
    assert comfyk("hello").stdout == "Yo, world!\n"


def test_a_plugin_that_fails_is_listed_and_stops_nothing(comfyk, site: Path) -> None:
    fake_plugin(site, "unimportable", "import no_such_thing\n")
    fake_plugin(
        site,
        "raising",
        "from comfyk import hookimpl\n\n"
        "@hookimpl\ndef comfyk_register_commands(cli):\n    @cli.command('run')\n    def run(): ...\n\n"
        "@hookimpl\ndef comfyk_startup(app):\n    raise ValueError('not today')\n\n"
        "@hookimpl\ndef comfyk_register_routes(app):\n    yield 1 / 0\n",
    )
    start = comfyk("start", "--quick-test-for-ci")
    assert start.returncode == 0 and "not today" in start.stderr and "no_such_thing" in start.stderr
    infos = {info["name"]: info for info in json.loads(comfyk("plugin", "list", "--json").stdout)}
    assert infos["unimportable"]["state"] == "failed"
    assert "No module named 'no_such_thing'" in infos["unimportable"]["errors"][0]["message"]
    messages = {error["hook"]: error["message"] for error in infos["raising"]["errors"]}
    assert messages["comfyk_register_commands"] == "ValueError: there is a command 'run' already"
    assert messages["comfyk_register_routes"] == "ZeroDivisionError: division by zero"
    assert messages["comfyk_startup"] == "at the latest start: ValueError: not today"
    assert infos["http"]["state"] == "enabled" and infos["http"]["errors"] == []
    text = comfyk("plugin", "list").stdout
    assert "unimportable  failed" in text and "import no_such_thing" in text


def test_names_are_checked(comfyk, tmp_path: Path) -> None:
    unknown = comfyk("plugin", "disable", "htpp")
    assert unknown.returncode == 1 and "there is no plugin 'htpp'; did you mean 'http'?" in unknown.stderr
    assert not (tmp_path / "comfyk.toml").exists()
    for name in ("Hello", "../x", "a--b", "", "http", "jobs", "class", "json"):
        assert comfyk("plugin", "new", "--", name).returncode == 1, name
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(comfyk, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    done = comfyk("plugin", "new", "mine")
    assert done.returncode == 1 and "exists already" in done.stderr
    assert list((tmp_path / "mine").iterdir()) == []


def test_settings_show_what_gave_them_their_value(comfyk, tmp_path: Path, environment) -> None:
    (tmp_path / "comfyk.toml").write_text("[jobs]\nmax_attempts = 3\n")
    environment["COMFYK_HTTP__PORT"] = "9000"
    text = comfyk("--set", "execution.cache=none", "settings", "show").stdout
    assert f"max_attempts = 3  # {tmp_path / 'comfyk.toml'}, line 2" in text
    assert "port = 9000  # COMFYK_HTTP__PORT" in text
    assert 'cache = "none"  # --set execution.cache=none' in text
    schema = json.loads(comfyk("settings", "schema").stdout)
    assert {"folders", "http", "storage"} <= schema["properties"].keys()


ADDS = """
from comfyk import hookimpl, hookspec

class Hooks:
    @hookspec
    def comfyk_dish(self) -> str | None: ...

@hookimpl
def comfyk_add_hooks():
    return Hooks()
"""


def test_of_two_that_add_one_hook_the_first_by_name_wins(comfyk, site) -> None:
    for name in ("ada", "zoe"):
        fake_plugin(site, name, ADDS)
    found = json.loads(comfyk("plugin", "list", "--json").stdout)
    errors = {plugin["name"]: [error["message"] for error in plugin["errors"]] for plugin in found}
    assert errors["ada"] == []
    assert errors["zoe"] == ["ValueError: there is a hook comfyk_dish already, in ada_module"]


def test_an_event_loop_that_is_closed_is_one_clear_line(comfyk, site) -> None:
    code = "import asyncio\nfrom comfyk import hookimpl\n@hookimpl(tryfirst=True)\ndef comfyk_create_event_loop():\n"
    fake_plugin(
        site, "loops", code + "    loop = asyncio.new_event_loop()\n    loop.close()\n    return loop\n"
    )
    done = comfyk("start", "--quick-test-for-ci", "--set", "plugins.disabled=core-nodes")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "which is closed" in done.stderr and "comfyk plugin disable" in done.stderr
