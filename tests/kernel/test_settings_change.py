"""Settings that are changed while the program runs: checked, kept in the file, told."""

from __future__ import annotations

import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest
from comfyk import App, Plugins, hookimpl
from comfyk.config_file import locked
from comfyk.events import Event, SettingsChanged
from comfyk.settings import AbsolutePath, Override, Section, Settings, SettingsError, load_settings
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import Field, model_validator

FILE = """\
# What we agreed on.
title = "mine"   # of no section of ours

[hello]
greeting = "Hi"  # short
words = [
    "one",   # the first
    "two",
]

[jobs]
max_attempts = 3
"""


class Hello(Section):
    greeting: str = Field("Hello", description="How to begin.", max_length=40)
    words: list[str] = Field([], description="What to say.")
    times: int = Field(1, ge=1, description="How often.")
    loud: bool = Field(False, description="Whether to shout.")
    voice: AbsolutePath | None = Field(None, description="A file.")

    @model_validator(mode="after")
    def _not_too_much(self) -> Hello:
        if self.loud and self.times > 3:
            raise ValueError("shout three times at most")
        return self


@pytest.fixture
def plugins() -> Plugins:
    class Plugin:
        @hookimpl
        def comfyk_register_settings(self) -> dict[str, type[Section]]:
            return {"hello": Hello}

    plugins = Plugins()
    plugins.register(Plugin(), "hello")
    return plugins


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "comfyk.toml"
    path.write_text(FILE.replace('title = "mine"   # of no section of ours\n', ""))
    return path


def load(plugins: Plugins, file: Path, **overrides: Any) -> Settings:
    return load_settings(plugins, toml=file, overrides=overrides)


def test_a_change_counts_at_once_and_stays_and_nothing_else_in_the_file_moves(plugins, file):
    settings = load(plugins, file)
    hello = settings.section("hello", Hello)  # held by somebody
    before = file.read_text()
    settings.change("hello.greeting", "Ahoy")
    settings.change("hello.loud", "true")  # as text, from a command line
    assert (hello.greeting, hello.loud) == ("Ahoy", True)
    text = file.read_text()
    assert text.replace('"Ahoy"', '"Hi"').replace("loud = true\n", "") == before
    again = load(plugins, file).section("hello", Hello)
    assert (again.greeting, again.loud, again.words) == ("Ahoy", True, ["one", "two"])
    settings.change("hello.greeting", None)
    assert hello.greeting == "Hello" and "greeting" not in file.read_text()


def test_a_list_keeps_the_comments_of_what_stays(plugins, file):
    settings = load(plugins, file)
    settings.change("hello.words", ["one", "three"])
    assert '"one",   # the first' in file.read_text()
    assert load(plugins, file).section("hello").words == ["one", "three"]


def test_a_file_that_is_not_there_is_made(plugins, tmp_path):
    settings = load(plugins, tmp_path / "new.toml")
    settings.change("jobs.max_attempts", 5)
    assert tomllib.loads((tmp_path / "new.toml").read_text()) == {"jobs": {"max_attempts": 5}}
    assert settings.source("jobs.max_attempts") == f"{tmp_path / 'new.toml'}, line 2"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("hello.times", 0, "hello.times: 0: Input should be greater than or equal to 1"),
        ("hello.times", "many", "hello.times: 'many': Input should be a valid integer"),
        ("hello.time", 1, "there is no key hello.time; did you mean 'times'?"),
        ("helo.times", 1, "there is no section 'helo'; did you mean 'hello'?"),
        ("hello", 1, "there is no key hello."),
        ("hello.greeting", "x" * 41, "hello.greeting"),
    ],
)
def test_what_is_not_allowed_is_refused_and_changes_nothing(plugins, file, key, value, said):
    settings = load(plugins, file)
    before = file.read_bytes(), settings.model_dump()
    with pytest.raises(SettingsError) as raised:
        settings.change(key, value)
    assert said in str(raised.value)
    assert (file.read_bytes(), settings.model_dump()) == before


def test_what_the_section_refuses_as_a_whole_is_refused(plugins, file):
    settings = load(plugins, file)
    settings.change("hello.times", 5)
    with pytest.raises(SettingsError, match="three times at most"):
        settings.change("hello.loud", True)
    assert settings.section("hello").loud is False and "loud" not in file.read_text()


def test_a_key_that_an_option_or_a_variable_sets_is_refused(plugins, file, monkeypatch):
    settings = load(plugins, file, **{"hello.times": Override(2, "--times")})
    with pytest.raises(SettingsError, match=r"hello\.times: --times sets it"):
        settings.change("hello.times", 3)
    monkeypatch.setenv("COMFYK_HELLO__GREETING", "Servus")
    settings = load(plugins, file)
    with pytest.raises(SettingsError, match="COMFYK_HELLO__GREETING sets it"):
        settings.change("hello.greeting", "Ahoy")
    assert settings.section("hello").greeting == "Servus"


def test_settings_of_no_file_cannot_be_changed(plugins):
    with pytest.raises(SettingsError, match="read from no file"):
        load_settings(plugins).change("jobs.max_attempts", 3)


@pytest.mark.skipif(sys.platform == "win32", reason="limits on files are POSIX's")
def test_a_file_that_cannot_be_written_leaves_all_as_it_was(plugins, file):
    import resource
    import signal

    settings = load(plugins, file)
    before = file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))  # as on a full disk
    try:
        with pytest.raises(OSError):
            settings.change("jobs.max_attempts", 4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert settings.jobs.max_attempts == 3 and file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["comfyk.toml"]


def test_what_was_written_into_the_file_meanwhile_stays(plugins, file):
    settings = load(plugins, file)
    file.write_text(file.read_text().replace("max_attempts = 3", "max_attempts = 7"))
    settings.change("hello.greeting", "Ahoy")
    assert load(plugins, file).jobs.max_attempts == 7
    file.write_text("not [toml")
    with pytest.raises(SettingsError, match="is not TOML"):
        settings.change("hello.greeting", "Hey")
    assert file.read_text() == "not [toml" and settings.section("hello").greeting == "Ahoy"


@given(
    greeting=st.text(max_size=40),
    words=st.lists(st.text(max_size=10), max_size=4),
    times=st.integers(1, 2**62),
)
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_is_changed_is_read_back(plugins, file, greeting, words, times):
    settings = load(plugins, file)
    for name, value in (("greeting", greeting), ("words", words), ("times", times)):
        settings.change(f"hello.{name}", value)
    hello = load(plugins, file).section("hello", Hello)
    now = settings.section("hello", Hello)
    assert hello == now and hello.times == times and "# the first" in FILE
    assert now.greeting == greeting and now.words == words


async def test_a_change_is_told(plugins, file, tmp_path):
    settings = load(plugins, file, **{"folders.base": tmp_path})
    told: list[Event] = []
    async with App(settings, plugins) as app:
        app.events.subscribe(told.append, SettingsChanged)
        app.settings.change("hello.times", 2)
        app.events.deliver()
    assert [event.key for event in told] == ["hello.times"]  # type: ignore[attr-defined]


def test_changes_from_many_threads_are_all_kept(plugins, file) -> None:
    settings = load(plugins, file)
    changes: dict[str, Any] = {"hello.greeting": "Ahoy", "hello.times": 2, "hello.words": ["three"]}
    changes |= {"jobs.max_attempts": 5, "nodes.whitelist": ["a"], "logging.stdout": True}
    threads = [threading.Thread(target=settings.change, args=change) for change in changes.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in (settings, load(plugins, file)):
        assert {key: getattr(one.section(key.split(".")[0]), key.split(".")[1]) for key in changes} == changes


def test_what_is_not_in_the_file_is_taken_out_without_a_trace(plugins, file, tmp_path) -> None:
    before = file.read_text()
    load(plugins, file).change("execution.cache_lru", None)
    load(plugins, file).change("hello.loud", None)
    assert file.read_text() == before
    load(plugins, tmp_path / "none.toml").change("hello.loud", None)
    assert not (tmp_path / "none.toml").exists()


CHANGES = """
import subprocess
import sys
from pathlib import Path
from comfyk import Plugins
from comfyk.settings import load_settings

settings = load_settings(Plugins(), toml=Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(1, 26):
    settings.change(sys.argv[2], number)
"""


def test_changes_from_several_processes_are_all_kept(plugins, file) -> None:
    file.write_text(FILE[FILE.index("[jobs]") :])
    keys = ["jobs.max_attempts", "execution.cache_lru", "execution.cache_ram_gb"]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHANGES, str(file), key], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for key in keys
    ]  # fmt: skip
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        child.communicate(timeout=60)
        assert child.returncode == 0
    settings = load(plugins, file)
    assert [getattr(settings.section(key.split(".")[0]), key.split(".")[1]) for key in keys] == [25] * 3
    assert [path.name for path in file.parent.iterdir()] == ["comfyk.toml"]


def test_a_change_waits_for_the_process_that_holds_the_file(plugins, file) -> None:
    settings = load(plugins, file)
    done = threading.Event()

    def change() -> None:
        settings.change("jobs.max_attempts", 4)
        done.set()

    with locked(file):
        thread = threading.Thread(target=change)
        thread.start()
        assert not done.wait(0.2) and "max_attempts = 3" in file.read_text()
        file.write_text(file.read_text().replace('greeting = "Hi"', 'greeting = "Hey"'))
    assert done.wait(30)
    thread.join()
    again = load(plugins, file)
    assert (again.jobs.max_attempts, again.section("hello").greeting) == (4, "Hey")
