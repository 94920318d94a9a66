"""Plugins: order, isolation, and what is known of one that fails."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comfyk import hookimpl
from comfyk.app import App
from comfyk.plugin_info import load_errors
from comfyk.plugins import Plugins
from comfyk.settings import load_settings


def module(**functions: Callable[..., Any]) -> types.ModuleType:
    """A plugin module with these hooks."""
    made = types.ModuleType("some_module")
    for hook, function in functions.items():
        setattr(made, hook, hookimpl(function))
    return made


def fail(app: Any) -> None:
    raise ZeroDivisionError("oh no")


def errors(plugins: Plugins, name: str) -> list[tuple[str, str]]:
    info = next(info for info in plugins.infos() if info.name == name)
    return [(error.hook, error.message) for error in info.errors]


def test_an_import_that_fails_leaves_the_others() -> None:
    def broken() -> object:
        raise SystemExit(3)

    plugins = Plugins(disabled=["off"])
    plugins.add("broken", broken)
    plugins.add("off", broken)
    plugins.register(module(comfyk_feature_flags=lambda app: {"a": 1}), "good")
    assert {info.name: info.state for info in plugins.infos()} == {
        "broken": "failed",
        "good": "enabled",
        "off": "disabled",
    }
    assert errors(plugins, "broken") == [("import", "SystemExit: 3")]
    assert plugins.call("comfyk_feature_flags", app=None) == [{"a": 1}]


def test_disabling_what_is_no_plugin_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    Plugins.discover(disabled=["core_nodes", "storage"])
    assert [record.getMessage() for record in caplog.records] == [
        "the setting plugins.disabled names 'core_nodes', and no plugin is called that; did you mean 'core-nodes'?"
    ]


def test_a_hook_that_raises_is_recorded_and_the_next_is_called() -> None:
    plugins = Plugins()
    plugins.register(module(comfyk_feature_flags=lambda app: {"a": 1}), "a")
    plugins.register(module(comfyk_feature_flags=fail), "b")
    plugins.register(module(comfyk_feature_flags=lambda app: None), "c")
    assert plugins.call("comfyk_feature_flags", app=None) == [{"a": 1}]
    assert errors(plugins, "b") == [("comfyk_feature_flags", "ZeroDivisionError: oh no")]
    trace = plugins.infos()[1].errors[0].traceback
    assert (
        "in fail" in trace
        and "hooks.py" not in trace
        and "plugins.py" not in trace.replace("test_plugins.py", "")
    )


async def test_async_hooks_are_awaited_one_after_the_other() -> None:
    order: list[str] = []

    def hook(name: str) -> Callable[..., Any]:
        async def startup(app: Any) -> None:
            order.append(name)
            if name == "b":
                raise ValueError(name)

        return startup

    plugins = Plugins()
    for name in ("c", "b", "a"):  # discovery registers in reverse
        plugins.register(module(comfyk_startup=hook(name), comfyk_shutdown=hook(name)), name)
    await plugins.call_async("comfyk_startup", app=None)
    await plugins.call_async("comfyk_shutdown", app=None)
    assert order == ["a", "b", "c", "c", "b", "a"]
    assert [hook for hook, _ in errors(plugins, "b")] == ["comfyk_startup", "comfyk_shutdown"]


def test_names_that_are_no_hooks_are_reported() -> None:
    plain = module(comfyk_register_node=fail)
    plain.comfyk_event = lambda app, event: None  # type: ignore[attr-defined]
    plugins = Plugins()
    plugins.register(plain, "p")
    assert errors(plugins, "p") == [
        (
            "comfyk_register_node",
            "there is no hook comfyk_register_node; did you mean 'comfyk_register_nodes'?",
        ),
        ("comfyk_event", "comfyk_event has no @hookimpl and is not called"),
    ]


def test_a_hook_with_other_arguments_fails_its_plugin_alone() -> None:
    plugins = Plugins()
    plugins.register(module(comfyk_feature_flags=lambda application: None), "p")
    plugins.register(module(comfyk_feature_flags=lambda app: {"q": 1}), "q")
    assert plugins.infos()[0].state == "failed" and "application" in errors(plugins, "p")[0][1]
    assert plugins.call("comfyk_feature_flags", app=None) == [{"q": 1}]


def test_an_async_hook_where_none_is_awaited_is_an_error() -> None:
    async def flags(app: Any) -> dict[str, Any]:
        return {}

    plugins = Plugins()
    plugins.register(module(comfyk_feature_flags=flags), "p")
    assert plugins.call("comfyk_feature_flags", app=None) == []
    assert errors(plugins, "p") == [
        ("comfyk_feature_flags", "WrongResult: comfyk_feature_flags cannot be async")
    ]


def test_two_plugins_of_one_name_are_an_error() -> None:
    plugins = Plugins()
    plugins.register(module(), "p")
    plugins.register(module(), "p")
    assert [info.name for info in plugins.infos()] == ["p"] and "two plugins" in errors(plugins, "p")[0][1]


def test_errors_are_written_for_another_process(tmp_path: Path) -> None:
    plugins = Plugins()
    plugins.register(module(comfyk_feature_flags=fail), "p")
    plugins.call("comfyk_feature_flags", app=None)
    file = tmp_path / "comfyk" / "errors.json"
    plugins.save_errors(file)
    assert load_errors(file)["p"] == plugins.infos()[0].errors
    file.write_text("{")
    assert load_errors(file) == {} and [path.name for path in file.parent.iterdir()] == ["errors.json"]


async def test_a_server_with_a_plugin_that_always_raises_starts_and_stops(tmp_path: Path) -> None:
    hooks = [
        "comfyk_register_settings", "comfyk_register_nodes", "comfyk_register_folders", "comfyk_startup",
        "comfyk_shutdown", "comfyk_register_web_directories", "comfyk_register_node_replacements",
    ]  # fmt: skip

    def raising() -> None:
        raise RuntimeError("never works")

    plugins = Plugins()
    plugins.register(module(**dict.fromkeys(hooks, raising)), "p")
    async with App(load_settings(plugins, overrides={"folders.base": tmp_path}), plugins):
        pass
    assert sorted(hook for hook, _ in errors(plugins, "p")) == sorted(hooks)


async def test_a_wrapper_that_raises_fails_the_node_alone(tmp_path: Path) -> None:
    class Text:
        RETURN_TYPES = ()
        FUNCTION = "run"
        OUTPUT_NODE = True

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"text": ("STRING", {})}}

        def run(self, text: str) -> dict[str, Any]:
            return {"ui": {"text": [text]}}

    class Wrapper:
        @hookimpl(wrapper=True)
        def comfyk_node_call(self, inputs: Any) -> Any:
            if "bad" in str(inputs):
                raise RuntimeError("not this one")
            return (yield)

    plugins = Plugins()
    plugins.register(Wrapper(), "w")
    async with App(load_settings(plugins, overrides={"folders.base": tmp_path}), plugins) as app:
        app.nodes.add(Text, name="Text")
        outcomes = []
        for text in ("bad", "good"):
            submission = await app.jobs.submit({"1": {"class_type": "Text", "inputs": {"text": text}}})
            outcomes.append(await app.jobs.wait(submission.job.id))
    assert [outcome.status.value for outcome in outcomes] == ["failed", "completed"]
    assert outcomes[0].error is not None and outcomes[0].error["exception_message"].strip() == "not this one"


@pytest.mark.parametrize("name", ["http", "storage", "core-nodes"])
def test_the_default_plugins_are_found_by_their_entry_points(name: str) -> None:
    info = next(info for info in Plugins.discover().infos() if info.name == name)
    assert info.state == "enabled" and info.errors == [] and info.distribution == f"comfyk-{name}"
