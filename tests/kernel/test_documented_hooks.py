"""The hookspecs say what an author must know, and `docs/plugins.md` shows each of them with an example that runs."""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from comfyk import App, Plugins, hookimpl, hookspecs
from comfyk.events import Event, Message
from comfyk.settings import load_settings

DOCS = Path(__file__).parents[2] / "docs" / "plugins.md"
HOOKS = {name: function for name, function in vars(hookspecs).items() if name.startswith("comfyk_")}
SAID = ("When:", "Thread:", "Return:", "On error:", "Since:")


def sections() -> dict[str, tuple[str, str]]:
    """By hook: the signature in its heading, and the text under it."""
    parts = re.split(r"^#### `(comfyk_\w+)\((.*?)\)`$", DOCS.read_text(), flags=re.MULTILINE)[1:]
    return {
        name: (arguments, re.split(r"^#{2,3} ", text, flags=re.MULTILINE)[0])
        for name, arguments, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    }


def examples(text: str) -> Iterator[str]:
    return iter(re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL))


def plugin_of(code: str, name: str) -> types.ModuleType:
    """The example as a module; it begins as the document says that all do."""
    module = types.ModuleType(name)
    module.__dict__.update(hookimpl=hookimpl, __file__=__file__)
    exec(compile(code, f"docs/plugins.md: {name}", "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hookspec_says_all_that_an_author_needs(hook: str) -> None:
    text = inspect.getdoc(HOOKS[hook]) or ""
    said = [word for word in SAID if re.search(rf"^{word} ", text, re.MULTILINE)]
    assert said == list(SAID), f"{hook} does not say {set(SAID) - set(said)}"


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_is_documented_with_its_signature_and_an_example(hook: str) -> None:
    assert hook in sections(), f"docs/plugins.md has no heading for {hook}"
    signature, text = sections()[hook]
    assert signature == ", ".join(inspect.signature(HOOKS[hook]).parameters)
    marks = HOOKS[hook].comfyk_rules
    said = text.partition("```")[0].lower()
    assert ("first result" in said) == marks["firstresult"]
    assert ("raises" in said) == bool(marks["raises"])
    assert ("async" in said) == inspect.iscoroutinefunction(HOOKS[hook])
    codes = list(examples(text))
    assert any(f"def {hook}(" in code for code in codes), f"no example implements {hook}"
    for code in codes:
        plugins = Plugins()
        plugins.register(plugin_of(code, "example"), "example")
        (info,) = plugins.infos()
        assert info.errors == [] and info.state == "enabled"


def test_nothing_is_documented_that_is_not_there() -> None:
    assert sections().keys() == HOOKS.keys()


def test_the_wrapper_at_the_top_does_what_it_says() -> None:
    (code,) = examples(DOCS.read_text().partition("## The hooks")[2].partition("### Life")[0])
    plugins = Plugins()
    plugins.register(plugin_of(code, "wrapper"), "wrapper")
    flags = types.ModuleType("flags")
    flags.comfyk_feature_flags = hookimpl(lambda app: {"secret": 1, "plain": 2})  # type: ignore[attr-defined]
    plugins.register(flags, "flags")
    assert plugins.call("comfyk_feature_flags", app=None) == [{"plain": 2}]


def counting(module: types.ModuleType, called: set[str]) -> types.ModuleType:
    """The plugin, with its functions noting that they were called."""
    for hook in HOOKS:
        function = getattr(module, hook, None)
        if function is None or inspect.isgeneratorfunction(function):
            continue

        @functools.wraps(function)
        def counted(*arguments: Any, _function: Any = function, _hook: str = hook) -> Any:
            called.add(_hook)
            return _function(*arguments)

        setattr(module, hook, counted)
    return module


async def test_the_examples_run_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plugins = Plugins()
    called: set[str] = set()
    for hook, (_, text) in sections().items():
        for number, code in enumerate(examples(text)):
            plugins.register(counting(plugin_of(code, hook), called), f"{hook}-{number}")
    plugins.call("comfyk_register_commands", cli=click.Group())
    (tmp_path / "custom_nodes" / "a.hello").mkdir(parents=True)
    settings = load_settings(plugins, overrides={"folders.base": tmp_path})
    plugins.call("comfyk_create_event_loop", settings=settings).close()
    app = App(settings, plugins)
    told: list[Event] = []
    async with app:
        app.events.subscribe(told.append, Message)
        assert await app.serve()
        prompt: dict[str, Any] = {"1": {"class_type": "Yell", "inputs": {"words": "hi"}}}
        submission = await app.jobs.submit(prompt)
        outcome = await app.jobs.wait(submission.job.id)
        assert outcome.outputs == {"1": {"text": ["HI"]}}
        assert (await app.jobs.free(unload_models=True, free_memory=True))["greetings"] == 0
        assert app.hook.comfyk_feature_flags()
        assert app.hook.comfyk_websocket_message(client_id="me", message={"type": "hello"})
        assert [finding.severity for found in app.hook.comfyk_doctor() for finding in found] == []
        assert (await app.open_database("scratch")).engine is not None
        for rest in ("device_stats", "system_stats", "page_scripts", "register_blueprints", "snapshot"):
            assert getattr(app.hook, f"comfyk_{rest}")(), rest
        for rest in ("register_routes", "register_middlewares"):
            assert getattr(app.hook, f"comfyk_{rest}")(), rest
        app.hook.comfyk_restore(data={"hello": {"greetings": ["a.txt"]}})
        (tmp_path / "a.txt").write_text("hello")
        assert await app.hook.comfyk_file_saved(path=tmp_path / "a.txt", folder="input", user="default") == [
            {"size": 5}
        ]
        await app.packs.unload("a.hello")
        assert app.hook.comfyk_resolve_file(name="hello:portrait") == app.folders.input / "portrait.png"
    # One of the startup example, before this listened, and one for the client that said hello.
    assert [(event.client_id, event.data()) for event in told[-1:]] == [("me", {"text": "Hello to you"})]
    problems = [(info.name, error.hook, error.message) for info in plugins.infos() for error in info.errors]
    assert problems == []
    generators = {"comfyk_node_call", "comfyk_doctor"}
    assert called == HOOKS.keys() - generators - {"comfyk_node_failed"}
    assert "Shout took" in capsys.readouterr().out
