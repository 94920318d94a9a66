"""Calling hooks: order, wrappers and first results as in pluggy, failures kept to their plugin, results checked."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from comfyk import App, Plugins, hookimpl, hookspec
from comfyk.execution import OutputCache
from comfyk.graph import PromptError
from comfyk.hooks import WrongResult
from comfyk.settings import load_settings
from hypothesis import given
from hypothesis import strategies as st


def plugin(hook: str, function: Callable[..., Any], **marks: bool) -> types.ModuleType:
    module = types.ModuleType("a_plugin")
    setattr(module, hook, hookimpl(**marks)(function))
    return module


def errors(plugins: Plugins) -> dict[str, list[str]]:
    return {info.name: [error.message for error in info.errors] for info in plugins.infos() if info.errors}


def kernel_app(base: Path, plugins: Plugins) -> App:
    return App(load_settings(plugins, overrides={"folders.base": base}), plugins)


# --- against a model ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Member:
    """What one plugin does."""

    does: str
    """`answers`, `nothing`, `raises`, `wrong`, or as a wrapper `adds`, `before`, `after`, `never`, `twice`, `junk`."""
    order: str = ""
    """`tryfirst` or `trylast`."""

    @property
    def wraps(self) -> bool:
        return self.does not in ("answers", "nothing", "raises", "wrong")


members = st.lists(
    st.builds(
        Member,
        st.sampled_from(
            ["answers", "nothing", "raises", "wrong", "adds", "before", "after", "never", "twice", "junk"]
        ),
        st.sampled_from(["", "tryfirst", "trylast"]),
    ),
    max_size=7,
)


def implementation(member: Member, name: str) -> Callable[..., Any]:
    def plain(app: Any) -> Any:
        if member.does == "raises":
            raise LookupError(name)
        return {"answers": {name: 1}, "nothing": None, "wrong": 5}[member.does]

    def wrapper(app: Any) -> Any:
        if member.does == "before":
            raise LookupError(name)
        if member.does == "never":
            return
        results = yield
        if member.does == "after":
            raise LookupError(name)
        if member.does == "twice":
            yield
        if member.does == "junk":
            return [*results, 5]
        return [*results, {name: 2}]

    return wrapper if member.wraps else plain


def in_call_order(named: list[tuple[str, Member]]) -> list[tuple[str, Member]]:
    """As pluggy documents it: the last that was registered is called first, but among those with `trylast`."""
    first = [one for one in named if one[1].order == "tryfirst"]
    middle = [one for one in named if one[1].order == ""]
    last = [one for one in named if one[1].order == "trylast"]
    return [*reversed(first), *reversed(middle), *last]


@given(members)
def test_whatever_plugins_do_the_others_are_heard_in_order(chosen: list[Member]) -> None:
    named = [(f"p{number}", member) for number, member in enumerate(chosen)]
    plugins = Plugins()
    for name, member in named:
        marks = {member.order: True} if member.order else {}
        made = plugin("comfyk_feature_flags", implementation(member, name), wrapper=member.wraps, **marks)
        plugins.register(made, name)
    expected: list[dict[str, int]] = []
    for name, member in in_call_order(named):
        if member.does == "answers":
            expected.append({name: 1})
    wrappers = [one for one in in_call_order(named) if one[1].wraps]
    for name, member in reversed(wrappers):
        if member.does == "adds":
            expected.append({name: 2})
    assert plugins.call("comfyk_feature_flags", app=None) == expected
    bad = {name for name, member in named if member.does not in ("answers", "nothing", "adds")}
    assert errors(plugins).keys() == bad


# --- first results ------------------------------------------------------------------------------------------------


async def test_two_executors_are_offered_and_one_is_made(tmp_path: Path) -> None:
    from comfyk.execution import ThreadExecutor

    made: list[str] = []

    def offer(name: str) -> Callable[..., Any]:
        def create(app: App) -> ThreadExecutor:
            made.append(name)
            cache = app.hook.comfyk_create_cache()
            return ThreadExecutor(app.nodes, app.events, app.hook, cache, on_thread=app.enter)

        return create

    plugins = Plugins()
    plugins.register(plugin("comfyk_create_executor", offer("b")), "b")
    plugins.register(plugin("comfyk_create_executor", offer("a")), "a")
    async with kernel_app(tmp_path, plugins):
        assert made == ["a"]


async def test_what_is_no_executor_is_refused_and_the_next_is_taken(tmp_path: Path) -> None:
    plugins = Plugins()
    plugins.register(plugin("comfyk_create_executor", lambda app: object()), "a")
    async with kernel_app(tmp_path, plugins) as app:
        assert app.executor.capacity == 1
    (message,) = errors(plugins)["a"]
    assert "comfyk_create_executor returned" in message and "Executor" in message


async def test_what_is_no_job_store_ends_the_start_and_names_the_plugin(tmp_path: Path) -> None:
    """The kernel's store forgets: to take it instead would lose jobs."""
    plugins = Plugins()
    plugins.register(plugin("comfyk_open_job_store", lambda app: 5), "forgetful")
    app = kernel_app(tmp_path, plugins)
    with pytest.raises(TypeError, match="plugin forgetful: comfyk_open_job_store returned a value"):
        await app.start()
    assert list(errors(plugins)) == ["forgetful"]


# --- what is returned ---------------------------------------------------------------------------------------------


def raising_generator(app: App) -> Any:
    yield "not a route"
    raise LookupError("half way")


@pytest.mark.parametrize(
    ("hook", "function", "said"),
    [
        ("comfyk_register_web_directories", lambda app: 5, "not int 5"),
        ("comfyk_register_web_directories", lambda app: {"a": 5}, "['a']"),
        ("comfyk_register_routes", raising_generator, "LookupError: half way"),
        ("comfyk_register_middlewares", lambda app: 5, "not int 5"),
        ("comfyk_register_folders", lambda folders: 5, "it returns nothing"),
        ("comfyk_feature_flags", lambda app: ["a"], "not list"),
        ("comfyk_doctor", lambda app: ["it is broken"], "[0]"),
    ],
)
async def test_what_a_hook_does_not_return_is_recorded_and_the_app_starts(
    tmp_path: Path, hook: str, function: Callable[..., Any], said: str
) -> None:
    plugins = Plugins()
    plugins.register(plugin(hook, function), "p")
    async with kernel_app(tmp_path, plugins) as app:
        if hook != "comfyk_register_folders":  # called at the start
            assert "p" not in dict(app.hook.each(hook))
    (message,) = errors(plugins)["p"]
    assert said in message


def test_each_result_comes_with_its_plugin() -> None:
    plugins = Plugins()
    plugins.register(plugin("comfyk_feature_flags", lambda app: {"a": 1}), "a")
    plugins.register(plugin("comfyk_feature_flags", lambda app: {"b": 1}), "b")

    def more(app: Any) -> Any:
        results = yield
        return [*results, {"w": 1}]

    plugins.register(plugin("comfyk_feature_flags", more, wrapper=True), "w")
    found = plugins.call_each("comfyk_feature_flags", app=None)
    assert found == [("b", {"b": 1}), ("a", {"a": 1}), ("w", {"w": 1})]


# --- async hooks --------------------------------------------------------------------------------------------------


async def test_a_wrapper_of_an_async_hook_gets_what_was_awaited(tmp_path: Path) -> None:
    async def fields(path: Path) -> dict[str, Any]:
        return {"size": 3}

    def more(path: Path) -> Any:
        results = yield
        return [*results, {"seen": len(results)}]

    plugins = Plugins()
    plugins.register(plugin("comfyk_file_saved", fields), "a")
    plugins.register(plugin("comfyk_file_saved", more, wrapper=True), "w")
    app = kernel_app(tmp_path, plugins)
    saved = await app.hook.comfyk_file_saved(path=tmp_path, folder="input", user="default")
    assert saved == [{"size": 3}, {"seen": 1}]


async def test_a_prompt_is_refused_whole_by_its_own_error_and_no_other(tmp_path: Path) -> None:
    refusal = {"type": "closed", "message": "We are closed", "details": "", "extra_info": {}}

    async def close(prompt: dict[str, Any], user: str, client_id: str, extra_data: dict[str, Any]) -> None:
        extra_data["looked_at"] = (user, client_id)
        if user == "ann":
            raise PromptError(refusal)
        raise LookupError("no such user")

    class Say:
        RETURN_TYPES = ()
        FUNCTION = "run"
        OUTPUT_NODE = True
        INPUT_TYPES = classmethod(lambda cls: {"required": {}})

        def run(self) -> dict[str, Any]:
            return {"ui": {"text": ["said"]}}

    plugins = Plugins()
    plugins.register(plugin("comfyk_validate_prompt", close), "p")
    async with kernel_app(tmp_path, plugins) as app:
        app.nodes.add(Say)
        prompt = {"1": {"class_type": "Say", "inputs": {}}}
        with pytest.raises(PromptError) as raised:
            await app.jobs.submit(prompt, user="ann")
        assert raised.value.error == refusal and errors(plugins) == {}
        submission = await app.jobs.submit(prompt, user="bob", extra_data={"client_id": "c"})
        assert submission.job.extra_data["looked_at"] == ("bob", "c")
        assert (await app.jobs.wait(submission.job.id)).outputs == {"1": {"text": ["said"]}}
    assert errors(plugins) == {"p": ["LookupError: no such user"]}


async def test_wrappers_of_an_async_hook_see_what_the_inner_ones_made_of_an_error(tmp_path: Path) -> None:
    seen: list[str] = []

    async def fails() -> list[str]:
        raise LookupError("no port")

    def wrapper(name: str) -> Callable[..., Any]:
        def surround() -> Any:
            try:
                return (yield)
            except LookupError as error:
                seen.append(f"{name}: {error}")
                raise LookupError(f"{name} says so") from error

        return surround

    plugins = Plugins()
    plugins.register(plugin("comfyk_serve", fails), "a")
    plugins.register(plugin("comfyk_serve", wrapper("inner"), wrapper=True), "inner")
    plugins.register(plugin("comfyk_serve", wrapper("outer"), wrapper=True), "outer")
    with pytest.raises(LookupError, match="outer says so"):
        await kernel_app(tmp_path, plugins).serve()
    assert seen == ["inner: no port", "outer: inner says so"]


def test_a_wrapper_that_forgets_the_first_result_takes_it_from_nobody(tmp_path: Path) -> None:
    def forgets() -> Any:
        yield

    plugins = Plugins()
    plugins.register(plugin("comfyk_create_cache", forgets, wrapper=True), "w")
    assert isinstance(kernel_app(tmp_path, plugins).hook.comfyk_create_cache(), OutputCache)
    assert "has to return a result" in errors(plugins)["w"][0]


@pytest.mark.parametrize("returned", [5, None])
async def test_what_a_wrapper_of_a_raising_hook_returns_is_checked(tmp_path: Path, returned: Any) -> None:
    def junk() -> Any:
        yield
        return returned

    for hook in ("comfyk_serve", "comfyk_open_job_store"):
        plugins = Plugins()
        plugins.register(plugin(hook, junk, wrapper=True), "w")
        app = kernel_app(tmp_path, plugins)
        with pytest.raises(WrongResult, match="plugin w: "):
            await (app.serve() if hook == "comfyk_serve" else app.start())
        assert hook in errors(plugins)["w"][0]


async def test_a_wrapper_sees_the_refusal_that_goes_through_it(tmp_path: Path) -> None:
    seen: list[str] = []

    async def refuses() -> None:
        raise PromptError({"type": "closed", "message": "Closed", "details": "", "extra_info": {}})

    def looks() -> Any:
        try:
            return (yield)
        except PromptError as error:
            seen.append(error.error["message"])
            raise

    plugins = Plugins()
    plugins.register(plugin("comfyk_validate_prompt", refuses), "p")
    plugins.register(plugin("comfyk_validate_prompt", looks, wrapper=True), "w")
    app = kernel_app(tmp_path, plugins)
    with pytest.raises(PromptError, match="Closed"):
        await app.hook.comfyk_validate_prompt(prompt={}, user="", client_id=None, extra_data={})
    assert seen == ["Closed"] and errors(plugins) == {}


async def test_a_wrapper_refuses_a_prompt_too(tmp_path: Path) -> None:
    def refuse() -> Any:
        yield
        raise PromptError({"type": "closed", "message": "Closed", "details": "", "extra_info": {}})

    plugins = Plugins()
    plugins.register(plugin("comfyk_validate_prompt", refuse, wrapper=True), "w")
    app = kernel_app(tmp_path, plugins)
    with pytest.raises(PromptError, match="Closed"):
        await app.hook.comfyk_validate_prompt(prompt={}, user="", client_id=None, extra_data={})


# --- hooks that plugins add ---------------------------------------------------------------------------------------


class Menu:
    """A plugin with a hook of its own."""

    @hookspec
    def comfyk_menu_dishes(self, app: Any) -> list[str] | None:
        """Dishes."""

    @hookspec(firstresult=True, raises=True)
    def comfyk_menu_cook(self, dish: str) -> str | None:
        """Cook."""


async def test_plugins_have_hooks_for_others(tmp_path: Path) -> None:
    plugins = Plugins()
    plugins.register(plugin("comfyk_add_hooks", lambda: Menu()), "menu")
    plugins.register(plugin("comfyk_menu_dishes", lambda app: ["soup"]), "cook")
    plugins.register(plugin("comfyk_menu_dishes", lambda app: "stew"), "sloppy")
    plugins.register(plugin("comfyk_menu_dish", lambda app: ["stew"]), "mistaken")
    app = kernel_app(tmp_path, plugins)
    assert app.hook.comfyk_menu_dishes() == [["soup"]]
    assert app.hook.comfyk_menu_cook(dish="soup") is None
    assert errors(plugins)["sloppy"][0].startswith("WrongResult: comfyk_menu_dishes returned a value")
    assert errors(plugins)["mistaken"] == [
        "there is no hook comfyk_menu_dish; did you mean 'comfyk_menu_dishes'?"
    ]


@pytest.mark.parametrize(
    ("added", "said"),
    [
        (lambda: object(), "holds no function that is marked with comfyk.hookspec"),
        (lambda: Menu, "return an instance"),
        (lambda: __import__("comfyk.hookspecs", fromlist=["x"]), "there is a hook comfyk_add_hooks already"),
    ],
)
def test_hooks_that_cannot_be_are_refused(added: Callable[[], Any], said: str) -> None:
    plugins = Plugins()
    plugins.register(plugin("comfyk_add_hooks", added), "p")
    assert said in errors(plugins)["p"][0]
    assert plugins.call("comfyk_feature_flags", app=None) == []


def test_hooks_that_an_earlier_plugin_does_not_fit_are_not_added(tmp_path: Path) -> None:
    plugins = Plugins()
    plugins.register(plugin("comfyk_menu_dishes", lambda wine: ["soup"]), "guest")
    plugins.register(plugin("comfyk_add_hooks", lambda: Menu()), "menu")
    assert "wine" in errors(plugins)["menu"][0]
    with pytest.raises(AttributeError, match="there is no hook comfyk_menu_dishes"):
        kernel_app(tmp_path, plugins).hook.comfyk_menu_dishes()


async def test_what_fails_while_it_is_awaited_is_the_plugins_error(tmp_path: Path) -> None:
    async def fails() -> None:
        raise OSError("the download broke")

    async def leaves() -> None:
        raise SystemExit(3)

    async def comes() -> str:
        return "here"

    plugins = Plugins()
    for name, wait in {"broken": fails, "rude": leaves, "good": comes}.items():
        plugins.register(plugin("comfyk_before_job", lambda job, wait=wait: wait()), name)
    waiting = kernel_app(tmp_path, plugins).hook.comfyk_before_job(job=None)
    assert errors(plugins) == {}
    assert sorted(map(str, [await one for one in waiting])) == ["None", "None", "here"]
    assert errors(plugins) == {"broken": ["OSError: the download broke"], "rude": ["SystemExit: 3"]}


class AwaitableSoup:
    """Nothing to await, whatever it is called."""


class Soups:
    @hookspec
    def comfyk_soups(self) -> AwaitableSoup | None:
        """Soups."""


async def test_a_hook_is_async_by_its_types_and_not_by_their_names(tmp_path: Path) -> None:
    async def late() -> AwaitableSoup:
        return AwaitableSoup()

    plugins = Plugins()
    plugins.register(plugin("comfyk_add_hooks", lambda: Soups()), "menu")
    plugins.register(plugin("comfyk_soups", lambda: AwaitableSoup()), "cook")
    plugins.register(plugin("comfyk_soups", late), "late")
    [soup] = kernel_app(tmp_path, plugins).hook.comfyk_soups()
    assert isinstance(soup, AwaitableSoup)
    assert errors(plugins) == {"late": ["WrongResult: comfyk_soups cannot be async"]}


async def test_what_an_async_hook_never_ends_is_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    class Slow:
        @hookspec(patience_s=0.1)
        async def comfyk_slow_work(self) -> str | None:
            """Work."""

    async def for_ever() -> str:
        await asyncio.Event().wait()
        return "never"

    async def at_once() -> str:
        return "done"

    plugins = Plugins()
    plugins.register(plugin("comfyk_add_hooks", lambda: Slow()), "slow")
    plugins.register(plugin("comfyk_slow_work", for_ever), "stuck")
    plugins.register(plugin("comfyk_slow_work", at_once), "quick")
    assert await plugins.call_async("comfyk_slow_work") == ["done"]
    assert errors(plugins)["stuck"][0].startswith("HookStuck: comfyk_slow_work has not returned for 0.1 s")


async def test_what_hooks_do_is_cancelled_with_whoever_waits_for_it(tmp_path: Path) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def work(app: App) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    plugins = Plugins()
    plugins.register(plugin("comfyk_startup", work), "p")
    app = kernel_app(tmp_path, plugins)
    calling = asyncio.create_task(app.hook.comfyk_startup())
    await begun.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    await asyncio.wait_for(cancelled.wait(), 5)
    assert errors(plugins) == {}
