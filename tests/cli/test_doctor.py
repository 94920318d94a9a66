"""`comfyk doctor`: what is wrong, and what to do; and the packages of a generation, of which a command is made."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from comfyk.app import App
from comfyk.plugins import Plugins
from comfyk.settings import load_settings

FAILS = (
    "from comfyk import hookimpl\n\n@hookimpl\ndef comfyk_doctor(app):\n    raise OSError('no stethoscope')\n"
)
FINDS = (
    "from comfyk import hookimpl\nfrom comfyk.doctor import Finding\n\n@hookimpl\ndef comfyk_doctor(app):\n"
    "    yield Finding('warning', 'It squeaks.', 'Oil it.')\n"
)


def fake_plugin(site: Path, name: str, code: str) -> None:
    """What pip would have left of a plugin with this module."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[comfyk]\n{name} = {name}_module\n")
    (site / f"{name}_module.py").write_text(code)


def generation(base: Path, number: str = "7") -> Path:
    """The site folder of a generation that the pointer leads to."""
    folder = base / "user" / "comfyk" / "generations"
    site = folder / number / "site"
    site.mkdir(parents=True)
    (folder / "current").write_text(f"{number}\n")
    return site


def plugins_of(comfyk, *arguments: str) -> dict[str, str]:
    done = comfyk(*arguments, "plugin", "list", "--json")
    return {info["name"]: info["state"] for info in json.loads(done.stdout)}


def test_nothing_is_wrong_with_a_new_installation(comfyk) -> None:
    done = comfyk("--set", "plugins.disabled=frontend", "doctor")
    assert (done.returncode, done.stdout) == (0, "Nothing is wrong.\n"), done.stdout + done.stderr


def test_what_is_wrong_is_said_with_what_to_do(comfyk, environment, tmp_path: Path) -> None:
    site = tmp_path / "site"
    fake_plugin(site, "gone", "import no_such_module\n")
    fake_plugin(site, "sick", FAILS)
    fake_plugin(site, "rusty", FINDS)
    environment["PYTHONPATH"] = os.pathsep.join([str(site), environment.get("PYTHONPATH", "")])
    (tmp_path / "temp").write_text("not a folder")
    done = comfyk("doctor")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    text = " ".join(done.stdout.split())
    assert text.index("Errors:") < text.index("Warnings:")
    for said in (
        "The plugin gone cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'",
        "comfyk plugin disable gone",
        "The plugin sick cannot say what is wrong with it: OSError: no stethoscope",
        "The temp folder cannot be used",
        "rusty: It squeaks. -> Oil it.",
    ):
        assert said in text
    findings = json.loads(comfyk("doctor", "--json").stdout)
    assert {
        "plugin": "rusty",
        "severity": "warning",
        "message": "It squeaks.",
        "remedy": "Oil it.",
    } in findings


def test_a_setting_that_is_wrong_is_a_finding(comfyk, tmp_path: Path) -> None:
    (tmp_path / "comfyk.toml").write_text("[jobs]\nmax_attempts = 0\n")
    done = comfyk("doctor")
    assert done.returncode == 1 and "jobs.max_attempts: 0" in done.stdout


def test_packages_of_a_generation_are_there_and_come_last(comfyk, tmp_path: Path) -> None:
    site = generation(tmp_path)
    fake_plugin(site, "extra", "import more\n")
    (site / "more.pth").write_text("library\n")
    (site / "library").mkdir()
    (site / "library" / "more.py").write_text("")
    (site / "click").mkdir()  # one of comfyk's own: it may not win
    (site / "click" / "__init__.py").write_text("raise ImportError('shadowed')\n")
    (site / "grab.pth").write_text("import grabber\n")
    (site / "grabber.py").write_text(
        "import sys\nclass Grabber:\n    def find_spec(self, name, *rest):\n"
        "        if name == 'comfyk_http': raise ImportError('grabbed')\nsys.meta_path.insert(0, Grabber())\n"
    )
    states = plugins_of(comfyk)
    assert (states["extra"], states["http"]) == ("enabled", "enabled")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert "extra" not in plugins_of(comfyk, "--base-directory", str(elsewhere))
    assert comfyk("--set", "plugins.disabled=frontend", "doctor").returncode == 0


@pytest.mark.parametrize("content", ["", "0", "-1", "../7", "7/..", "seven", "7 7", "9" * 40, "8", "\0", "٧"])
def test_a_pointer_that_leads_nowhere_stops_nothing(comfyk, tmp_path: Path, content: str) -> None:
    site = generation(tmp_path)
    fake_plugin(site, "extra", "")
    (site.parent.parent / "current").write_text(content, encoding="utf-8")
    done = comfyk("plugin", "list")
    assert done.returncode == 0 and "extra" not in done.stdout
    assert "Starting without the packages of node packs" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="links take privileges on Windows")
def test_a_generation_does_not_lead_out_of_its_folder(comfyk, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    fake_plugin(outside, "extra", "")
    site = generation(tmp_path)
    site.rmdir()
    site.symlink_to(outside)
    done = comfyk("doctor")
    assert done.returncode == 1 and "leads out of" in done.stdout
    assert "extra" not in plugins_of(comfyk)
    site.unlink()
    pointer = site.parent.parent / "current"
    pointer.unlink()
    pointer.symlink_to("/etc/hostname")
    assert "extra" not in plugins_of(comfyk)


def test_it_changes_nothing(comfyk, tmp_path: Path) -> None:
    assert comfyk("doctor").returncode == 0
    assert list(tmp_path.iterdir()) == []


async def test_plugins_tell_what_they_see_of_a_running_server(comfyk, server, tmp_path: Path) -> None:
    await server.start()
    port = server.url.rpartition(":")[2]
    done = comfyk("--set", f"http.port={port}", "doctor", "--json")
    assert done.returncode == 0, done.stdout
    told = {finding["plugin"]: finding for finding in json.loads(done.stdout)}
    assert told["storage"]["severity"] == told["http"]["severity"] == "info"
    assert f"port {port}" in told["http"]["message"] and "comfyk.db" in told["storage"]["message"]
    assert await server.stop() == 0
    done = comfyk("--set", "http.listen=0.0.0.0", "doctor")
    assert done.returncode == 1 and "http: Clients need a token" in done.stdout


def test_what_failed_at_the_latest_start_is_a_warning(comfyk, environment, tmp_path: Path) -> None:
    site = tmp_path / "site"
    code = "from comfyk import hookimpl\n\n@hookimpl\ndef comfyk_startup(app):\n    raise ValueError('not today')\n"
    fake_plugin(site, "lazy", code)
    environment["PYTHONPATH"] = os.pathsep.join([str(site), environment.get("PYTHONPATH", "")])
    assert comfyk("start", "--quick-test-for-ci").returncode == 0
    done = comfyk("doctor", "--json")
    [finding] = [one for one in json.loads(done.stdout) if "not today" in one["message"]]
    assert (done.returncode, finding["severity"]) == (0, "warning")
    assert "lazy failed in comfyk_startup at the latest start" in finding["message"]


def test_folders_that_are_not_there_are_named(comfyk, tmp_path: Path) -> None:
    (tmp_path / "loras").mkdir()
    (tmp_path / "extra_model_paths.yaml").write_text("a:\n  loras: loras\n  vae: |\n    gone\n    lost\n")
    (tmp_path / "custom_nodes").mkdir()
    (tmp_path / "custom_nodes" / "torn").symlink_to(tmp_path / "unplugged")
    (tmp_path / "custom_nodes" / "off.disabled").symlink_to(tmp_path / "unplugged")
    done = comfyk("--set", "plugins.disabled=nobody", "doctor")
    assert done.returncode == 1
    assert f"vae: {tmp_path / 'gone'}" in done.stdout and f"vae: {tmp_path / 'lost'}" in done.stdout
    assert str(tmp_path / "loras") not in done.stdout
    assert "torn cannot be read" in done.stdout and "off.disabled" not in done.stdout
    assert "plugins.disabled names 'nobody'" in done.stdout
    (tmp_path / "extra_model_paths.yaml").write_text("[")
    assert "not valid YAML" in comfyk("doctor").stdout


@pytest.mark.parametrize(("free", "severity"), [(2e9, None), (9e8, "warning"), (4e7, "error")])
def test_a_disk_that_is_nearly_full_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, severity: str | None
) -> None:
    plugins = Plugins()
    app = App(load_settings(plugins, overrides={"folders.base": tmp_path}), plugins)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    found = [finding for findings in app.hook.comfyk_doctor() for finding in findings]
    assert [finding.severity for finding in found] == ([] if severity is None else [severity])
    assert all("output and input and temp and user" in finding.message for finding in found)


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_an_error(comfyk, tmp_path: Path) -> None:
    (tmp_path / "output").mkdir(mode=0o500)
    done = comfyk("doctor")
    assert done.returncode == 1 and "The output folder cannot be used: this user may not write" in done.stdout
