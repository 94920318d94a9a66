"""The sections that the core nodes add to the settings: their options, and the keys that they had before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfyk_core_nodes.plugin
import pytest
from comfyk.commands.comfyui_options import COMFYUI_OPTIONS
from comfyk.commands.options import option_table, read_options
from comfyk.plugins import Plugins
from comfyk.settings import Settings, load_settings, plugin_sections


@pytest.fixture
def plugins() -> Plugins:
    plugins = Plugins()
    plugins.register(comfyk_core_nodes.plugin, "core-nodes")
    return plugins


@pytest.mark.parametrize(
    ("words", "section", "field", "value"),
    [
        ("--preview-method taesd", "previews", "method", "taesd"),
        ("--preview-size 96", "previews", "size", 96),
        ("--cpu", "device", "device", "cpu"),
        ("--disable-metadata", "metadata", "disable", True),
    ],
)
def test_options_are_called_as_ever(
    plugins: Plugins, words: str, section: str, field: str, value: Any
) -> None:
    given = read_options(words.split(), option_table(plugin_sections(plugins)), COMFYUI_OPTIONS)
    assert not given.ignored
    settings = load_settings(plugins, overrides=given.overrides)
    assert getattr(settings.section(section), field) == value
    assert getattr(load_settings(plugins).section(section), field) != value


def check(settings: Settings) -> None:
    previews = settings.section("previews")
    assert (previews.method, previews.size) == ("latent2rgb", 300)
    assert settings.section("device").device == "cpu"
    assert settings.section("metadata").disable


def test_old_configuration_files_count(plugins: Plugins, tmp_path: Path) -> None:
    toml = tmp_path / "comfyk.toml"
    toml.write_text(
        '[execution]\npreview_method = "latent2rgb"\npreview_size = 300\ndevice = "cpu"\n[metadata]\ndisable = true\n'
    )
    check(load_settings(plugins, toml=toml))


def test_old_variables_count(plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYK_EXECUTION__PREVIEW_METHOD", "latent2rgb")
    monkeypatch.setenv("COMFYK_EXECUTION__PREVIEW_SIZE", "300")
    monkeypatch.setenv("COMFYK_EXECUTION__DEVICE", "cpu")
    monkeypatch.setenv("COMFYK_METADATA__DISABLE", "true")
    check(load_settings(plugins))
