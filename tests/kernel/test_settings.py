"""Settings: which source wins, and what a mistake in one of them says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
from comfyk import hookimpl
from comfyk.commands.comfyui_options import COMFYUI_OPTIONS
from comfyk.commands.options import OptionError, option_table, read_options
from comfyk.plugins import Plugins
from comfyk.settings import Formerly, Option, Override, Section, Settings, SettingsError, load_settings
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field


class Greeting(Section):
    word: Annotated[str, Option("--word", bare="Hi")] = "Hello"
    times: Annotated[int, Option("--times")] = Field(1, ge=0)
    names: Annotated[list[str], Option("--names")] = Field([])
    loud: Annotated[bool, Option("--loud")] = False
    file: Path | None = None


class Plugin:
    @hookimpl
    def comfyk_register_settings(self) -> dict[str, type[BaseModel]]:
        return {"greeting": Greeting}


@pytest.fixture
def plugins() -> Plugins:
    plugins = Plugins()
    plugins.register(Plugin(), "greeter")
    return plugins


def problems(plugins: Plugins, **sources: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(plugins, **sources)
    return caught.value.problems


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_without_sources_there_are_defaults(plugins: Plugins, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(plugins)
    assert settings.folders.base == tmp_path
    assert settings.execution.cache == "ram" and settings.jobs.max_attempts == 2
    assert settings.section("greeting", Greeting).word == "Hello"
    assert settings.source("greeting.word") == "default"


numbers = st.none() | st.integers(0, 99)


@given(file=numbers, variable=numbers, option=numbers)
@hypothesis_settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_stronger_source_wins(plugins, tmp_path, file, variable, option) -> None:
    toml = write(tmp_path / "comfyk.toml", "" if file is None else f"[greeting]\ntimes = {file}\n")
    overrides = {} if option is None else {"greeting.times": Override(str(option), "--times")}
    with pytest.MonkeyPatch.context() as patch:
        if variable is not None:
            patch.setenv("COMFYK_GREETING__TIMES", str(variable))
        settings = load_settings(plugins, toml=toml, overrides=overrides)
        expected = next((value for value in (option, variable, file) if value is not None), 1)
        assert settings.section("greeting").times == expected
        source = settings.source("greeting.times")
    named = [(option, "--times"), (variable, "COMFYK_GREETING__TIMES"), (file, f"{toml}, line 2")]
    assert source == next((name for value, name in named if value is not None), "default")


def test_every_problem_is_told_with_its_place(plugins: Plugins, tmp_path: Path, monkeypatch) -> None:
    toml = write(
        tmp_path / "comfyk.toml",
        '# a comment\n[greeting]\nwrod = "x"\ntimes = -1\nnames = [\n  "a",\n  3,\n]\n\n[gretting]\nword = "x"\n'
        'execution.cache = "some"\n',
    )
    monkeypatch.setenv("COMFYK_JOBS__MAX_ATTEMPTS", "many")
    monkeypatch.setenv("COMFYK_NOWHERE__X", "1")
    found = problems(plugins, toml=toml, overrides={"execution.cache": Override("gpu", "--cache")})
    text = "\n".join(found)
    assert len(found) == 7, text
    assert f"{toml}, line 3: there is no key greeting.wrod; did you mean 'word'?" in text
    assert f"{toml}, line 4: greeting.times: -1: Input should be greater than or equal to 0" in text
    assert f"{toml}, line 5: greeting.names[1]: 3: Input should be a valid string" in text
    assert f"{toml}, line 10: there is no section 'gretting'; did you mean 'greeting'?" in text
    assert "COMFYK_JOBS__MAX_ATTEMPTS: jobs.max_attempts: 'many': Input should be a valid integer" in text
    assert "COMFYK_NOWHERE__X: there is no section 'nowhere'" in text
    assert "--cache: execution.cache: 'gpu': Input should be 'ram', 'classic', 'lru' or 'none'" in text


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("greeting.times = -1\n", 1),
        ("greeting = {word = 'x', times = -1}\n", 1),
        ("[ greeting ]\nword = '''\ntimes = 3\n'''\n'times' = -1\n", 5),
    ],
)
def test_the_line_is_right_however_the_key_is_written(plugins, tmp_path, text: str, line: int) -> None:
    toml = write(tmp_path / "c.toml", text)
    assert problems(plugins, toml=toml)[0].startswith(f"{toml}, line {line}: greeting.times: -1")


def test_a_file_that_is_no_toml_is_named_with_the_line(plugins: Plugins, tmp_path: Path) -> None:
    toml = write(tmp_path / "c.toml", "[greeting]\nword = \n")
    assert problems(plugins, toml=toml)[0].startswith(f"{toml}: is not TOML: Invalid value (at line 2")


def test_variables_that_are_no_settings_are_left_alone(plugins: Plugins, monkeypatch) -> None:
    monkeypatch.setenv("COMFYK_PORT", "tcp://10.0.0.1:8188")
    monkeypatch.setenv("COMFYK_CONFIG", "elsewhere.toml")
    monkeypatch.setenv("COMFYK_GREETING__WORD", "")
    assert load_settings(plugins).section("greeting").word == "Hello"


def test_lists_in_variables_are_json_or_comma_separated(plugins: Plugins, monkeypatch) -> None:
    for text in ("a, b", '["a", "b"]'):
        monkeypatch.setenv("COMFYK_GREETING__NAMES", text)
        assert load_settings(plugins).section("greeting").names == ["a", "b"]


def test_paths_in_the_file_are_relative_to_it(plugins: Plugins, tmp_path: Path) -> None:
    toml = write(tmp_path / "c.toml", '[folders]\noutput = "out"\ntemp = "/t"\n[greeting]\nfile = "f"\n')
    settings = load_settings(plugins, toml=toml)
    assert settings.folders.output == tmp_path / "out" and settings.folders.temp == Path("/t").absolute()
    assert settings.section("greeting").file == tmp_path / "f"


def test_the_section_of_a_disabled_plugin_is_no_error(tmp_path: Path) -> None:
    toml = write(tmp_path / "c.toml", "[my_greeter]\nword = 'x'\n[excution]\n")
    plugins = Plugins(disabled=["my-greeter"])
    plugins.register(Plugin(), "my-greeter")
    found = problems(plugins, toml=toml)
    assert len(found) == 1 and "'excution'; did you mean 'execution'?" in found[0]


def test_a_section_that_cannot_be_one_is_its_plugins_error() -> None:
    class Bad:
        def __init__(self, name: str, model: Any) -> None:
            self.sections = {name: model}

        @hookimpl
        def comfyk_register_settings(self) -> dict[str, Any]:
            return self.sections

    class Required(BaseModel):
        must: int

    plugins = Plugins()
    for index, (name, model) in enumerate(
        [("jobs", Greeting), ("Bad-Name", Greeting), ("needs", Required), ("x", 3)]
    ):
        plugins.register(Bad(name, model), f"p{index}")
    load_settings(plugins)
    assert [len(info.errors) for info in plugins.infos()] == [1, 1, 1, 1]


def test_extra_model_paths_are_loaded_from_the_base(plugins: Plugins, tmp_path: Path) -> None:
    write(tmp_path / "extra_model_paths.yaml", "a:\n  base_path: models2\n  loras: l\n")
    more = write(tmp_path / "more.yaml", "a:\n  vae: v\n")
    overrides = {"folders.base": tmp_path, "folders.extra_model_paths": [str(more)]}
    folders = load_settings(plugins, overrides=overrides).make_folders()
    assert tmp_path / "models2" / "l" in folders.paths("loras")
    assert tmp_path / "v" in folders.paths("vae")
    write(more, "a: 3\n")
    with pytest.raises(SettingsError, match=r"more\.yaml"):
        load_settings(plugins, overrides=overrides).make_folders()


# --- the command line --------------------------------------------------------------------------------------

TABLE = option_table(
    {name: field.annotation for name, field in Settings.model_fields.items()} | {"greeting": Greeting}  # type: ignore[arg-type]
)


def read(*words: str) -> dict[str, Any]:
    given = read_options(words, TABLE, COMFYUI_OPTIONS)
    return {key: override.value for key, override in given.overrides.items()}


class Moved(Section):
    loud: Annotated[bool, Option("--loud-moved"), Formerly("greeting.noisy")] = False
    steps: Annotated[list[int], Formerly("execution.steps")] = Field([])


class MovingPlugin:
    @hookimpl
    def comfyk_register_settings(self) -> dict[str, type[BaseModel]]:
        return {"greeting": Greeting, "moved": Moved}


@pytest.fixture
def moving() -> Plugins:
    plugins = Plugins()
    plugins.register(MovingPlugin(), "mover")
    return plugins


def test_former_keys_count_in_every_source(
    moving: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    toml = write(tmp_path / "comfyk.toml", "[greeting]\nnoisy = true\n[execution]\nsteps = [1, 2]\n")
    settings = load_settings(moving, toml=toml)
    assert settings.section("moved", Moved) == Moved(loud=True, steps=[1, 2])
    assert settings.source("moved.loud") == f"{toml}, line 2"
    assert f"{toml}, line 4: execution.steps is moved.steps now" in caplog.text
    # A stronger source wins, whichever of the keys it gives.
    monkeypatch.setenv("COMFYK_GREETING__NOISY", "false")
    settings = load_settings(moving, toml=toml)
    assert not settings.section("moved", Moved).loud
    assert settings.source("moved.loud") == "COMFYK_GREETING__NOISY"
    settings = load_settings(moving, toml=toml, overrides={"moved.loud": "true"})
    assert settings.section("moved", Moved).loud
    settings = load_settings(moving, toml=toml, overrides={"greeting.noisy": Override("true", "--set")})
    assert settings.section("moved", Moved).loud


def test_of_one_source_the_key_of_today_counts(moving: Plugins, tmp_path: Path) -> None:
    toml = write(tmp_path / "comfyk.toml", "[greeting]\nnoisy = true\n[moved]\nloud = false\n")
    assert not load_settings(moving, toml=toml).section("moved", Moved).loud


def test_mistakes_under_a_former_key_are_told_with_their_place(moving: Plugins, tmp_path: Path) -> None:
    toml = write(tmp_path / "comfyk.toml", '[execution]\nsteps = [1, "x"]\n')
    (problem,) = problems(moving, toml=toml)
    assert problem.startswith(f"{toml}, line 2: moved.steps[1]: 'x': Input should be a valid integer")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--word", "Yo"], {"greeting.word": "Yo"}),
        (["--word=Yo=Yo"], {"greeting.word": "Yo=Yo"}),
        (["--word", "--times", "3"], {"greeting.word": "Hi", "greeting.times": "3"}),
        (["--times", "-3"], {"greeting.times": "-3"}),
        (["--names", "a", "b", "--loud"], {"greeting.names": ["a", "b"], "greeting.loud": True}),
        (["--names", "a", "--names", "b"], {"greeting.names": ["a", "b"]}),
        (["--cache-none"], {"execution.cache": "none"}),
        (["--cache-classic"], {"execution.cache": "classic"}),
        (["--cache-lru", "7"], {"execution.cache": "lru", "execution.cache_lru": 7}),
        (["--cache-lru", "0"], {}),
        (["--cache-ram"], {"execution.cache": "ram"}),
        (
            ["--cache-ram", "4", "8.5"],
            {
                "execution.cache": "ram",
                "execution.cache_ram_gb": 4.0,
                "execution.cache_ram_inactive_gb": 8.5,
            },
        ),
        (["--verbose"], {"logging.level": "DEBUG"}),
        (["--verbose", "ERROR"], {"logging.level": "ERROR"}),
        (["--verbose", "DETAIL", "a.log"], {"logging.files": [{"level": "DETAIL", "path": "a.log"}]}),
        (["--extra-model-paths-config", "a", "b"], {"folders.extra_model_paths": ["a", "b"]}),
        (["--whitelist-custom-nodes", "x", "--disable-all-custom-nodes"],
         {"nodes.whitelist": ["x"], "nodes.disable_custom": True}),
    ],
)  # fmt: skip
def test_options_mean_what_they_say(words: list[str], expected: dict[str, Any]) -> None:
    assert read(*words) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--wrod", "x"], "there is no option --wrod; did you mean '--word'"),
        (["--times"], "--times needs an argument"),
        (["--names"], "--names needs an argument"),
        (["--cache-none=yes"], "--cache-none takes no argument"),
        (["stray"], "unexpected argument 'stray'"),
        (["--cache-none", "stray"], "unexpected argument 'stray'"),
        (["--cache-ram", "a"], "--cache-ram: could not convert"),
        (["--cache-ram", "1", "2", "3"], "--cache-ram: takes at most two"),
        (["--verbose", "LOUD"], "--verbose: 'LOUD' is not a level"),
    ],
)
def test_mistakes_are_named(words: list[str], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        read(*words)
    assert message in str(caught.value)


def test_options_without_a_meaning_are_noted() -> None:
    given = read_options(
        ["--lowvram", "--fast", "a", "b", "--reserve-vram", "2", "--cache-none"], TABLE, COMFYUI_OPTIONS
    )
    assert given.ignored == ["--lowvram", "--fast", "--reserve-vram"]
    assert list(given.overrides) == ["execution.cache"]


value = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1).filter(
    lambda text: not text.startswith("-")
)


@given(word=st.none() | st.just("") | value, names=st.lists(value, max_size=4), loud=st.booleans())
def test_what_is_written_is_read_back(word: str | None, names: list[str], loud: bool) -> None:
    words = [] if word is None else ["--word", *([word] if word else [])]
    words += ["--names", *names] if names else []
    words += ["--loud"] if loud else []
    expected: dict[str, Any] = {} if word is None else {"greeting.word": word or "Hi"}
    expected |= {"greeting.names": names} if names else {}
    expected |= {"greeting.loud": True} if loud else {}
    assert read(*words) == expected


@given(
    st.lists(st.sampled_from([*TABLE, *COMFYUI_OPTIONS, "x", "1", "-", "--", "--set", "=", "--port=", ""]))
)
def test_any_words_are_read_or_refused(words: list[str]) -> None:
    try:
        read(*words)
    except OptionError:
        pass
