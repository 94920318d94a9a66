"""The packages of the current generation: found by plugins and packs, behind comfyk's own; or none, and a line."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from comfyk import generation
from comfyk.generation import GenerationError, current_site, user_folder
from comfyk.settings import Override
from hypothesis import example, given
from hypothesis import strategies as st


def make(user: Path, number: int | str = 7, *, pointer: str | bytes | None = None) -> Path:
    """A generation that is in use; returns its site folder."""
    folder = user / "comfyk" / "generations"
    site = folder / str(number) / "site"
    site.mkdir(parents=True)
    content = str(number) if pointer is None else pointer
    (folder / "current").write_bytes(content.encode() if isinstance(content, str) else content)
    return site


def distribution(site: Path, name: str, entry_point: str, version: str = "1.0") -> None:
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[comfyk]\n{entry_point}\n")


def run(base: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in `base` without any settings but those given."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("COMFYK_")}
    return subprocess.run(
        [sys.executable, *command], cwd=base, env={**clean, **environment}, capture_output=True, text=True, timeout=120
    )  # fmt: skip


def listed(base: Path, *options: str, **environment: str) -> dict[str, Any]:
    """The plugins that `comfyk plugin list` shows, by name."""
    done = run(base, "-m", "comfyk", *options, "plugin", "list", "--json", **environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return {info["name"]: info for info in json.loads(done.stdout)}


# --- in use -------------------------------------------------------------------------------------------------------


def test_a_plugin_among_the_packages_is_found(tmp_path: Path) -> None:
    site = make(tmp_path / "user")
    distribution(site, "comfyk-hello", "hello = hello_plugin")
    (site / "hello_plugin.py").write_text("")
    found = listed(tmp_path)["hello"]
    assert (found["state"], found["distribution"], found["version"]) == ("enabled", "comfyk-hello", "1.0")
    assert "hello" not in listed(tmp_path, "--set", "folders.user=elsewhere")


PROBE = """
import json, sys
before = list(sys.path)
from comfyk.commands.session import Session
session = Session()
session.plugins
import aiohttp, click, comfyk, only_here
files = [module.__file__ for module in (aiohttp, click, comfyk, only_here)]
again = list(sys.path)
Session().plugins
print(json.dumps({
    "before": before, "after": again, "again": sys.path == again, "files": files,
    "count": sys.modules["counted"].count, "names": session.plugins.names(),
}))
"""


def test_its_paths_come_last_and_pth_files_count(tmp_path: Path) -> None:
    site = make(tmp_path / "user")
    beside, first = tmp_path / "beside", tmp_path / "first"
    for folder in (site, beside, first):
        for package in ("click", "aiohttp", "comfyk"):
            (folder / package).mkdir(parents=True)
            (folder / package / "__init__.py").write_text("raise ImportError('not the one')")
    (beside / "only_here.py").write_text("")
    (site / "counted.py").write_text("count = 0")
    (site / "a.pth").write_text(f"{beside}\n{tmp_path / 'not there'}\nimport counted; counted.count += 1\n")
    (site / "b.pth").write_text(f"import sys; sys.path.insert(0, {str(first)!r})\n")
    # A newer comfyk-http there is not taken for the one that runs.
    distribution(site, "comfyk-http", "http = no_such_module", "99.0")

    done = run(tmp_path, "-c", PROBE)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["after"] == [*told["before"], *map(str, (first, site, beside))]
    assert told["again"] and told["count"] == 1  # a second session of the process changes nothing
    files = [Path(file) for file in told["files"]]
    assert files[3] == beside / "only_here.py"
    assert not any(file.is_relative_to(tmp_path) for file in files[:3])
    assert "http" in told["names"]


def test_a_pth_file_that_fails_leaves_all_of_it_out(tmp_path: Path) -> None:
    site = make(tmp_path / "user")
    (site / "a.pth").write_text(f"{tmp_path / 'user'}\n")
    (site / "b.pth").write_text("import sys; sys.exit(3)\n")
    code = (
        "import sys; before = list(sys.path)\n"
        "from comfyk.commands.session import Session; Session().plugins; assert sys.path == before"
    )
    done = run(tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert "A .pth file in" in done.stderr and "SystemExit(3)" in done.stderr


def test_nothing_happens_without_a_session_or_a_pointer(tmp_path: Path) -> None:
    make(tmp_path / "user")
    code = (
        "import sys; before = list(sys.path)\n"
        "from comfyk.app import App; from comfyk.plugins import Plugins; from comfyk.settings import load_settings\n"
        "plugins = Plugins.discover(); App(load_settings(plugins), plugins).register()\n"
        "assert sys.path == before"
    )
    done = run(tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert current_site(tmp_path) is None
    before = list(sys.path)
    generation.activate(tmp_path)
    assert sys.path == before


# --- where the user folder is -------------------------------------------------------------------------------------


def test_the_user_folder_is_known_before_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("COMFYK_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    toml = tmp_path / "sub" / "comfyk.toml"
    assert user_folder(toml, {}) == tmp_path / "user"
    assert user_folder(toml, {"folders.base": Override("b", "--base-directory")}) == tmp_path / "b" / "user"
    toml.parent.mkdir()
    toml.write_text('[folders]\nuser = "mine"\n[nonsense]\n')
    assert user_folder(toml, {}) == tmp_path / "sub" / "mine"
    monkeypatch.setenv("COMFYK_FOLDERS__USER", "theirs")
    assert user_folder(toml, {}) == tmp_path / "theirs"
    assert user_folder(toml, {"folders.user": "/ours"}) == Path("/ours")
    assert user_folder(toml, {"folders.user": 3}) is None


def test_a_base_directory_and_a_user_folder_given_to_a_command_count(tmp_path: Path) -> None:
    for folder, name in (("base/user", "one"), ("users", "two")):
        site = make(tmp_path / folder)
        distribution(site, f"comfyk-{name}", f"{name} = {name}_plugin")
        (site / f"{name}_plugin.py").write_text("")
    assert {"one", "two"} & listed(tmp_path, "--base-directory", "base").keys() == {"one"}
    assert {"one", "two"} & listed(tmp_path, COMFYK_FOLDERS__USER="users").keys() == {"two"}


# --- broken -------------------------------------------------------------------------------------------------------


def refused(user: Path) -> str:
    """Why there is no generation; what to do is part of it."""
    with pytest.raises(GenerationError) as caught:
        current_site(user)
    assert str(user / "comfyk" / "generations" / "current") in caught.value.remedy
    text = f"{caught.value} {caught.value.remedy}"
    assert text.isprintable()  # one line, and nothing that a terminal obeys
    return text


HOSTILE = st.one_of(
    st.binary(max_size=100),
    st.sampled_from(["../", "..", "/", "7/../7", "7\0", "٧", "+7", "07", "0", "-7", "7.0", "7 7", "1_0", " 7", "\n7"])
    .map(str.encode),
    st.integers(min_value=10**9).map(lambda number: str(number).encode()),
)  # fmt: skip


@given(HOSTILE)
@example(b"7\n\n")
@example(b"7" + b" " * 100_000)
@example("٧".encode())
def test_a_pointer_that_is_not_a_plain_number_is_none(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        user = Path(folder)
        site = make(user, pointer=content)
        if content in (b"7", b"7\n", b"7\r\n"):
            assert current_site(user) == Path(os.path.realpath(site))
            return
        assert "generation 7" not in refused(user)
        before = list(sys.path)
        generation.activate(user)
        assert sys.path == before


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_number_may_stand_on_a_line(tmp_path: Path, end: str) -> None:
    site = make(tmp_path, 12, pointer=f"12{end}")
    assert current_site(tmp_path) == Path(os.path.realpath(site))


def broken(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "comfyk" / "generations"
    pointer, outside = folder / "current", tmp_path / "outside"
    outside.mkdir()
    if how == "a file in the way":
        folder.parent.mkdir()
        folder.write_text("")
        return
    site = make(tmp_path)
    if how == "no site":
        site.rmdir()
    elif how == "no generation":
        site.rmdir()
        site.parent.rmdir()
    elif how == "the site is a file":
        site.rmdir()
        site.write_text("")
    elif how == "a link to a site outside":
        site.rmdir()
        site.symlink_to(outside)
    elif how == "a link to a generation outside":
        site.rmdir()
        site.parent.rmdir()
        (outside / "site").mkdir()
        site.parent.symlink_to(outside)
    elif how == "a link in a circle":
        site.rmdir()
        site.symlink_to(site)
    else:
        pointer.unlink()
        if how == "the pointer is a folder":
            pointer.mkdir()
        elif how == "the pointer is a link to nothing":
            pointer.symlink_to("nothing")
        elif how == "the pointer is a link outside":
            (outside / "number").write_text("7")
            pointer.symlink_to(outside / "number")
        elif how == "the pointer is a pipe":
            os.mkfifo(pointer)
        elif how == "the pointer is endless":
            pointer.symlink_to("/dev/zero")


BROKEN = {
    "a file in the way": "cannot be read: Not a directory",
    "no site": "is not a folder",
    "no generation": "is not a folder",
    "the site is a file": "is not a folder",
    "a link to a site outside": "is a link that leads out",
    "a link to a generation outside": "is a link that leads out",
    "a link in a circle": "is not a folder",
    "the pointer is a folder": "cannot be read: Is a directory",
    "the pointer is a link to nothing": "cannot be read",
    "the pointer is a link outside": "is a link that leads out",
    "the pointer is a pipe": "not the number",
    "the pointer is endless": "is a link that leads out",
}


@pytest.mark.skipif(os.name != "posix", reason="links and pipes as POSIX has them")
@pytest.mark.parametrize(("how", "says"), BROKEN.items())
def test_what_is_broken_is_none_and_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str, says: str
) -> None:
    broken(tmp_path, how)
    assert says in refused(tmp_path)
    before = list(sys.path)
    generation.activate(tmp_path)
    assert sys.path == before
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert says in record.getMessage() and "Starting without the packages" in record.getMessage()


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["current", "7/site"])
def test_what_may_not_be_read_is_none(tmp_path: Path, name: str) -> None:
    make(tmp_path)
    path = tmp_path / "comfyk" / "generations" / name
    path.chmod(0)
    assert "cannot be read" in refused(tmp_path)
    path.chmod(0o700)


def test_the_generations_that_there_are_are_named(tmp_path: Path) -> None:
    for number in (2, 10):
        make(tmp_path, number)
    (tmp_path / "comfyk" / "generations" / "3").mkdir()
    (tmp_path / "comfyk" / "generations" / "current").write_text("11")
    assert "Write the number of another generation (2, 10) into it" in refused(tmp_path)


def test_a_command_works_without_the_packages_and_says_so_once(tmp_path: Path) -> None:
    make(tmp_path / "user", pointer="../../7")
    for command in (["plugin", "list"], ["start", "--quick-test-for-ci"]):
        done = run(tmp_path, "-m", "comfyk", *command)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("not the number of a generation") == 1


def test_a_user_directory_given_to_start_counts(tmp_path: Path) -> None:
    site = make(tmp_path / "elsewhere")
    distribution(site, "comfyk-hello", "hello = hello_plugin")
    (site / "hello_plugin.py").write_text(
        "from comfyk import hookimpl\n\n@hookimpl\ndef comfyk_startup(app):\n"
        "    print('hello from', app.folders.user)\n"
    )
    started = ["-m", "comfyk", "start", "--quick-test-for-ci"]
    for options in (["--user-directory", "elsewhere"], ["--user-directory=elsewhere"]):
        done = run(tmp_path, *started, *options, "--set", "folders.user=nowhere")  # the option wins
        assert (done.returncode, done.stdout) == (0, f"hello from {tmp_path / 'elsewhere'}\n"), done.stderr
    assert run(tmp_path, *started).stdout == ""
