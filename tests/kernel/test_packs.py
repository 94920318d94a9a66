"""Node packs in `custom_nodes`: what loads, what is left out, and what a failing one leaves behind."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
import textwrap
import threading
import time
import types
from pathlib import Path
from typing import Any

import pytest
from comfyk import hookimpl
from comfyk.app import App
from comfyk.execution.executor import ThreadExecutor
from comfyk.io.node import NodeReplace
from comfyk.nodes.registry import NodeRegistry
from comfyk.packs import PackInfo, PacksChanged
from comfyk.plugins import Plugins
from comfyk.settings import load_settings

V1 = """
class Node:
    RETURN_TYPES = ("INT",)
    FUNCTION = "run"
    CATEGORY = "test"
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}
    def run(self):
        return (1,)
NODE_CLASS_MAPPINGS = {"$": Node}
NODE_DISPLAY_NAME_MAPPINGS = {"$": "The $"}
"""
V3 = """
from comfyk import io
class Node(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="$", category="test", inputs=[], outputs=[])
    @classmethod
    def execute(cls):
        return io.NodeOutput()
class Extension:
    async def on_load(self):
        pass
    async def get_node_list(self):
        return [Node]
async def comfy_entrypoint():
    return Extension()
"""


def pack(base: Path, name: str, code: str = "", **files: str) -> Path:
    path = base / "custom_nodes" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith((".py", ".py.disabled")):
        path.write_text(code)
        return path
    path.mkdir()
    for file, text in {"__init__.py": code, **files}.items():
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        (path / file).write_text(textwrap.dedent(text))
    return path


def v1(name: str) -> str:
    return V1.replace("$", name)


def v3(name: str) -> str:
    return V3.replace("$", name)


def make_app(base: Path, plugins: Plugins | None = None, **overrides: Any) -> App:
    plugins = plugins or Plugins()
    settings = load_settings(plugins, overrides={"folders.base": base, **overrides})
    return App(settings, plugins)


async def load(base: Path, plugins: Plugins | None = None, **overrides: Any) -> App:
    app = make_app(base, plugins, **overrides)
    app.register()
    return app


def states(app: App) -> dict[str, str]:
    return {info.name: info.state for info in app.packs.infos()}


async def test_folders_and_files_load_and_the_rest_is_left_out(tmp_path: Path) -> None:
    pack(tmp_path, "a", "from .inner import *\n", **{"inner.py": v1("A")})
    pack(tmp_path, "b.py", v1("B"))
    pack(tmp_path, "c.d-e", v3("C"))
    pack(tmp_path, "off.disabled", v1("Off"))
    pack(tmp_path, ".hidden", v1("Hidden"))
    pack(tmp_path, "__pycache__", v1("Cache"))
    (tmp_path / "custom_nodes" / "notes.txt").write_text("x")
    app = await load(tmp_path)
    assert states(app) == {"a": "loaded", "b": "loaded", "c.d-e": "loaded", "off": "disabled"}
    assert sorted(app.nodes.names()) == ["A", "B", "C"]
    assert (
        app.nodes["A"].python_module == "custom_nodes.a" and app.nodes["A"].info()["display_name"] == "The A"
    )
    assert app.nodes.source("C") == "custom_nodes.c.d-e"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import nothing_like_this", "nothing_like_this"),
        ("raise SystemExit(1)", "SystemExit: 1"),
        ("x = (", "SyntaxError"),
        ("x = 1", "neither NODE_CLASS_MAPPINGS nor comfy_entrypoint"),
        ("NODE_CLASS_MAPPINGS = 3", "AttributeError"),
        ("def comfy_entrypoint():\n    return 3", "get_node_list"),
        ("def comfy_entrypoint():\n    raise KeyError('later')", "KeyError: 'later'"),
        (v1("Bad") + "WEB_DIRECTORY = '../other'", "outside of the pack"),
    ],
)
async def test_a_pack_that_fails_leaves_nothing_behind(tmp_path: Path, code: str, expected: str) -> None:
    modules = set(sys.modules)
    prefix = "import sys\nsys.path.insert(0, 'from-bad')\nfrom . import part\n"
    pack(tmp_path, "bad", prefix + code, **{"part.py": "", "web/x.js": ""})
    pack(tmp_path, "good", v1("Good"))
    app = await load(tmp_path)
    info = next(info for info in app.packs.infos() if info.name == "bad")
    assert info.state == "failed" and expected in info.error and info.nodes == []
    assert "packs.py" not in info.error.replace("test_packs.py", "")
    assert app.nodes.names() == ["Good"] and app.web_directories == {}
    assert not [name for name in set(sys.modules) - modules if name.endswith(("bad", "bad.part"))]
    assert "from-bad" not in sys.path


async def test_one_bad_node_does_not_take_the_others_away(tmp_path: Path) -> None:
    code = v1("Fine") + "class Broken: pass\nNODE_CLASS_MAPPINGS['Broken'] = Broken\n"
    pack(tmp_path, "p", code)
    app = await load(tmp_path)
    [info] = app.packs.infos()
    assert info.state == "loaded" and info.nodes == ["Fine"] and "node Broken" in info.error


async def test_nodes_of_plugins_are_not_replaced_by_packs(tmp_path: Path) -> None:
    class Core:
        @hookimpl
        def comfyk_register_nodes(self, app: App) -> None:
            space: dict[str, Any] = {}
            exec(v1("Same"), space)
            app.nodes.add(space["Node"], name="Same", source="core")

    plugins = Plugins()
    plugins.register(Core(), "core")
    pack(tmp_path, "p", v1("Same"))
    app = await load(tmp_path, plugins)
    assert app.nodes.source("Same") == "core" and app.packs.infos()[0].nodes == []


async def test_scripts_for_the_web_ui_are_found(tmp_path: Path) -> None:
    project = '[project]\nname = "pretty"\n[tool.comfy]\nweb = "js"\n'
    code = v1("A") + "WEB_DIRECTORY = './web'\n"
    path = pack(tmp_path, "a", code, **{"pyproject.toml": project, "web/x.js": "", "js/y.js": ""})
    app = await load(tmp_path)
    assert app.web_directories == {"a": path / "web", "pretty": path / "js"}


async def test_only_the_whitelist_is_loaded_when_the_rest_is_off(tmp_path: Path) -> None:
    for name in ("a", "b"):
        pack(tmp_path, name, v1(name.upper()))
    overrides = {"nodes.disable_custom": True, "nodes.whitelist": ["b"]}
    app = await load(tmp_path, **overrides)
    assert states(app) == {"a": "disabled", "b": "loaded"}


async def test_prestartup_scripts_run_before_any_import(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("PACK_TEST", raising=False)
    check = "import os\nassert os.environ['PACK_TEST'] == 'set'\n"
    pack(tmp_path, "a", check + v1("A"))
    pack(tmp_path, "b", v1("B"), **{"prestartup_script.py": "import os\nos.environ['PACK_TEST'] = 'set'\n"})
    pack(tmp_path, "c", v1("C"), **{"prestartup_script.py": "1 / 0"})
    app = await load(tmp_path)
    assert states(app) == {"a": "loaded", "b": "loaded", "c": "loaded"}
    assert "ZeroDivisionError" in app.packs.infos()[2].error


async def test_a_plugin_may_load_packs_of_its_own_kind(tmp_path: Path) -> None:
    class Loader:
        @hookimpl
        def comfyk_load_pack(self, app: App, path: Path) -> bool | None:
            if path.name == "broken":
                raise OSError("no good")
            return True if (path / "recipe.txt").exists() else None

    plugins = Plugins()
    plugins.register(Loader(), "loader")
    pack(tmp_path, "broken")
    pack(tmp_path, "special", "1 / 0", **{"recipe.txt": ""})
    pack(tmp_path, "usual", v1("A"))
    app = await load(tmp_path, plugins)
    assert states(app) == {"broken": "failed", "special": "loaded", "usual": "loaded"}


async def test_packs_come_and_go_at_runtime(tmp_path: Path) -> None:
    app = await load(tmp_path)
    path = pack(tmp_path, "a", "from .inner import *\n", **{"inner.py": v3("First")})

    async def loaded() -> PackInfo:
        return await app.packs.load_pack(path)

    assert (await loaded()).nodes == ["First"]
    (path / "inner.py").write_text(v3("Second version"))
    assert (await loaded()).nodes == ["Second version"] and app.nodes.names() == ["Second version"]
    await app.packs.unload("a")
    assert app.nodes.names() == [] and app.packs.infos() == []
    with pytest.raises(KeyError):
        await app.packs.unload("a")


async def test_async_entry_points_have_a_loop_of_their_own_that_lives_while_they_need_it(
    tmp_path: Path,
) -> None:
    code = v3("A").replace(
        "    async def on_load(self):\n        pass\n",
        "    async def on_load(self):\n"
        "        import asyncio, threading\n"
        "        assert threading.current_thread() is not threading.main_thread()\n"
        "        from comfyk import current_app\n"
        "        app = current_app()\n"
        "        async def tick():\n"
        "            try:\n"
        "                while True:\n"
        "                    app.ticks = getattr(app, 'ticks', 0) + 1\n"
        "                    await asyncio.sleep(0.001)\n"
        "            finally:\n"
        "                app.ticks = 'ended'\n"
        "        self.task = asyncio.create_task(tick())\n",
    )
    pack(tmp_path, "a", code)
    app: Any = await load(tmp_path)
    assert states(app) == {"a": "loaded"}, app.packs.infos()[0].error
    await until(lambda: getattr(app, "ticks", 0) > 3)
    await app.packs.unload("a")
    await until(lambda: app.ticks == "ended")


async def until(condition: Any) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


class Kinds:
    """A plugin with a kind of pack of its own: a folder with `kind.txt`, whose nodes that file names."""

    def __init__(self) -> None:
        self.unloaded: list[str] = []
        self.threads: list[bool] = []
        self.more: list[Path] = []

    @hookimpl
    def comfyk_before_packs(self, app: App) -> None:
        assert app.nodes.names() == [] and app.packs.infos() == []
        self.before = True

    @hookimpl
    def comfyk_supply_packs(self, app: App) -> list[Path]:
        return self.more

    @hookimpl
    def comfyk_veto_pack(self, path: Path) -> str | None:
        return "it says no" if (path / "no.txt").exists() else None

    @hookimpl
    def comfyk_load_pack(self, app: App, path: Path, pack: PackInfo) -> bool | None:
        self.threads.append(threading.current_thread() is threading.main_thread())
        if not (path / "kind.txt").exists():
            return None
        app.web_directories["kind"] = path
        sys.path.append(str(path / "lib"))
        sys.modules[f"kind_{pack.name}"] = module = types.ModuleType("kind")
        module.__file__ = str(path / "kind.py")
        for name in (path / "kind.txt").read_text().split():
            space: dict[str, Any] = {}
            exec(v1(name), space)
            app.nodes.add(space["Node"], name=name, source=pack.source)
        if (path / "late.txt").exists():
            raise OSError("too late")
        return True

    @hookimpl
    def comfyk_unload_pack(self, app: App, pack: PackInfo) -> bool | None:
        if not (pack.path / "kind.txt").exists():
            return None
        assert app.nodes.names(source=pack.source) == []
        self.unloaded.append(pack.name)
        return True


async def test_a_plugins_kind_of_pack_is_taken_back_when_it_fails_or_goes(tmp_path: Path) -> None:
    kinds = Kinds()
    plugins = Plugins()
    plugins.register(kinds, "kinds")
    pack(tmp_path, "fails", **{"kind.txt": "A B", "late.txt": ""})
    pack(tmp_path, "works", **{"kind.txt": "C D"})
    pack(tmp_path, "vetoed", "raise SystemExit", **{"no.txt": "", "prestartup_script.py": "raise SystemExit"})
    kinds.more = [
        pack(tmp_path / "more", "supplied", v1("S")),
        pack(tmp_path / "more2", "works", v1("Second")),
    ]
    kinds.more.append(tmp_path / "missing")
    app = await load(tmp_path, plugins)
    assert kinds.before and kinds.threads and all(kinds.threads)
    infos = {info.name: info for info in app.packs.infos()}
    assert {name: info.state for name, info in infos.items()} == {
        "fails": "failed", "works": "loaded", "vetoed": "disabled", "supplied": "loaded", "missing": "failed",
    }  # fmt: skip
    assert infos["vetoed"].error == "it says no" and "OSError: too late" in infos["fails"].error
    assert infos["works"].nodes == ["C", "D"] and infos["works"].source == "custom_nodes.works"
    assert sorted(app.nodes.names()) == ["C", "D", "S"]
    works = tmp_path / "custom_nodes" / "works"
    assert app.web_directories == {"kind": works} and str(works / "lib") in sys.path
    assert "kind_works" in sys.modules and "kind_fails" not in sys.modules
    await app.packs.unload("works")
    assert kinds.unloaded == ["works"] and app.nodes.names() == ["S"] and app.web_directories == {}
    assert "kind_works" not in sys.modules and str(works / "lib") not in sys.path
    await app.packs.unload("supplied")
    assert kinds.unloaded == ["works"]
    (tmp_path / "custom_nodes" / "vetoed" / "no.txt").unlink()
    assert plugins.infos()[0].errors == []


async def test_no_pack_of_any_origin_is_loaded_when_packs_are_off(tmp_path: Path) -> None:
    kinds = Kinds()
    plugins = Plugins()
    plugins.register(kinds, "kinds")
    kinds.more = [pack(tmp_path / "more", "a", v1("A")), pack(tmp_path / "more", "b", v1("B"))]
    app = await load(tmp_path, plugins, **{"nodes.disable_custom": True, "nodes.whitelist": ["b"]})
    assert states(app) == {"a": "disabled", "b": "loaded"}


# --- while the server runs --------------------------------------------------------------------------------------

TURN = "import turning_loop; turning_loop.turn()"
"""Blocks until the server's loop has taken a turn: for ever, if it is the loop that runs this."""


@pytest.fixture
async def turning_loop(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module for packs; `turn()` raises TimeoutError when the loop does not go on meanwhile."""
    loop = asyncio.get_running_loop()
    module = types.ModuleType("turning_loop")
    module.turns = []  # type: ignore[attr-defined]

    def turn() -> None:
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(timeout=10)
        module.turns.append(threading.current_thread().name)  # type: ignore[attr-defined]

    module.turn = turn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "turning_loop", module)
    return module


@pytest.mark.parametrize(
    "code",
    [
        f"{TURN}\n" + v1("Slow"),
        v3("Slow").replace("        return [Node]", f"        {TURN}; return [Node]"),
        f"{TURN}\n" + v1("Slow") + "WEB_DIRECTORY = '.'\n",
    ],
)
async def test_the_loop_goes_on_while_a_pack_loads(
    tmp_path: Path, code: str, turning_loop: types.ModuleType
) -> None:
    """An import that takes long may take the server nothing, nor may a pack's veto, script or unloading."""

    class Slow:
        @hookimpl
        def comfyk_veto_pack(self) -> None:
            turning_loop.turn()

        @hookimpl
        def comfyk_unload_pack(self) -> None:
            turning_loop.turn()

    plugins = Plugins()
    plugins.register(Slow(), "slow")
    async with make_app(tmp_path, plugins) as app:
        changes: list[Any] = []
        app.events.subscribe(changes.append, PacksChanged)
        path = pack(tmp_path, "slow", code, **{"prestartup_script.py": f"{TURN}\n"})
        before = app.object_info.all()[1]
        info = await app.packs.load_pack(path)
        assert info.state == "loaded", info.error
        assert app.object_info.one("Slow") and app.object_info.all()[1] != before
        await app.packs.unload("slow")
        assert app.object_info.one("Slow") is None and app.object_info.all()[1] == before
        assert len(turning_loop.turns) == 4, "the veto, the script, the import, the unloading"
        assert plugins.infos()[0].errors == []
        assert [(change.name, change.state) for change in changes] == [("slow", "loaded"), ("slow", None)]


BLOCKS = """
import threading
go, begun = threading.Event(), threading.Event()
class Node:
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    CATEGORY = "test"
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}
    def run(self):
        import sys
        begun.set()
        assert go.wait(10)
        assert __name__ in sys.modules
        return {"ui": {"text": ["$"]}}
NODE_CLASS_MAPPINGS = {"Blocks": Node}
"""


async def test_nothing_is_unloaded_under_a_running_job(tmp_path: Path) -> None:
    path = pack(tmp_path, "blocks", BLOCKS)
    async with make_app(tmp_path) as app:

        def module() -> Any:
            return sys.modules[app.nodes["Blocks"].cls.__module__]

        first = module()
        submission = await app.jobs.submit({"1": {"class_type": "Blocks", "inputs": {}}})
        assert await asyncio.to_thread(first.begun.wait, 10)
        (path / "__init__.py").write_text(BLOCKS.replace("$", "new"))
        reload = asyncio.create_task(app.packs.load_pack(path))
        later = await app.jobs.submit({"1": {"class_type": "Blocks", "inputs": {}}})
        await asyncio.sleep(0.1)
        assert not reload.done() and module() is first
        first.go.set()
        assert (await app.jobs.wait(submission.job.id)).outputs == {"1": {"text": ["$"]}}
        assert (await reload).state == "loaded" and module() is not first
        module().go.set()  # the job that waited runs with the new version, also where results are kept
        assert (await app.jobs.wait(later.job.id)).outputs == {"1": {"text": ["new"]}}


async def test_packs_are_changed_one_after_the_other(tmp_path: Path) -> None:
    paths = [pack(tmp_path, name, "import time\ntime.sleep(0.01)\n" + v1(name)) for name in "abcd"]
    app = await load(tmp_path, **{"nodes.disable_custom": True})
    for running in (False, True):
        if running:
            await app.start()
        infos = await asyncio.gather(*(app.packs.load_pack(path) for path in paths * 2))
        assert {info.state for info in infos} == {"loaded"} and sorted(app.nodes.names()) == list("abcd")
        await asyncio.gather(*(app.packs.unload(name) for name in "abcd"))
        assert app.nodes.names() == []
        await app.packs.load_pack(paths[0])
        twice = await asyncio.gather(app.packs.unload("a"), app.packs.unload("a"), return_exceptions=True)
        assert twice[0] is None and isinstance(twice[1], KeyError)
    await app.stop()
    assert (await app.packs.load_pack(paths[0])).state == "loaded"


class Stubborn:
    """A plugin whose executor frees nothing."""

    @hookimpl
    def comfyk_create_executor(self, app: App) -> ThreadExecutor:
        class KeepsAll(ThreadExecutor):
            async def free(self, *, unload_models: bool, free_memory: bool) -> dict[str, Any]:
                raise OSError("it is stuck")

        return KeepsAll(app.nodes, app.events, app.hook, app.hook.comfyk_create_cache(), on_thread=app.enter)


async def test_a_pack_comes_and_goes_also_where_results_are_not_let_go(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = pack(tmp_path, "a", v1("First"))
    plugins = Plugins()
    plugins.register(Stubborn(), "stubborn")
    async with make_app(tmp_path, plugins) as app:
        told: list[Any] = []
        app.events.subscribe(lambda event: told.append((event.name, event.state)), PacksChanged)  # type: ignore[attr-defined]
        (path / "__init__.py").write_text(v1("Second"))
        assert (await app.packs.load_pack(path)).state == "loaded" and app.nodes.names() == ["Second"]
        await app.packs.unload("a")
        app.events.deliver()
        assert app.nodes.names() == [] and told == [("a", "loaded"), ("a", None)]
    assert caplog.messages == ["results of the nodes of pack a may be kept"] * 2


async def test_modules_that_cannot_be_asked_for_their_file_are_left_alone(
    tmp_path: Path, monkeypatch
) -> None:
    class Lazy(types.ModuleType):
        def __getattribute__(self, name: str) -> Any:
            if name == "__file__":
                raise ImportError("not installed")
            return super().__getattribute__(name)

    monkeypatch.setitem(sys.modules, "lazy_module_of_a_test", Lazy("lazy_module_of_a_test"))
    pack(tmp_path, "bad", "raise ValueError('no')")
    pack(tmp_path, "good", v1("Good"))
    app = await load(tmp_path)
    assert states(app) == {"bad": "failed", "good": "loaded"}
    await app.packs.unload("good")
    assert app.nodes.names() == [] and "lazy_module_of_a_test" in sys.modules


async def test_a_plugin_may_load_a_pack_in_its_startup(tmp_path: Path) -> None:
    path = pack(tmp_path / "elsewhere", "late", v1("Late"))

    class Late:
        @hookimpl
        async def comfyk_startup(self, app: App) -> None:
            await app.packs.load_pack(path)

    plugins = Plugins()
    plugins.register(Late(), "late")
    async with asyncio.timeout(10), make_app(tmp_path, plugins) as app:
        assert app.nodes.names() == ["Late"]


def test_a_registry_is_read_while_other_threads_change_it() -> None:
    registry = NodeRegistry()
    space: dict[str, Any] = {}
    exec(v1("X"), space)
    stop = threading.Event()

    def change(source: str) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            registry.add(space["Node"], name=f"{number % 50}", source=source)
            registry.add_replacement(NodeReplace(f"new{number % 50}", f"old{number % 20}"), source=source)
            if number % 20 == 0:
                registry.remove_source(source)

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        changes = [pool.submit(change, source) for source in "abc"]
        until = time.monotonic() + 1
        while time.monotonic() < until:
            assert len([node.name for node in registry]) <= 50
            _ = registry.replacements, registry.names("a"), list(registry.class_mappings)
            for number in range(50):
                node = registry.get(str(number))
                assert node is None or node.cls is space["Node"]
        stop.set()
    for changing in changes:
        changing.result()


STUBBORN = """
import time
class Node:
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    CATEGORY = "test"
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}
    def run(self):
        import sys
        from comfyk import check_interrupted, current_app
        app = current_app()
        app.seen = []
        while len(app.seen) < 50:
            app.seen.append(__name__ in sys.modules)
            time.sleep(0.01)
        check_interrupted()
        return ()
NODE_CLASS_MAPPINGS = {"Stubborn": Node}
"""


async def test_nothing_is_unloaded_under_a_job_that_the_stopping_server_interrupts(tmp_path: Path) -> None:
    pack(tmp_path, "stubborn", STUBBORN)
    app: Any = make_app(tmp_path)
    await app.start()
    await app.jobs.submit({"1": {"class_type": "Stubborn", "inputs": {}}})
    await until(lambda: getattr(app, "seen", None))
    early = asyncio.create_task(app.packs.unload("stubborn"))
    await asyncio.sleep(0.05)
    stopping = asyncio.create_task(app.stop())
    await asyncio.sleep(0.05)
    late = asyncio.create_task(app.packs.unload("stubborn"))
    async with asyncio.timeout(10):
        await stopping
        ended = await asyncio.gather(early, late, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in ended)  # nobody waits for ever
    assert len(app.seen) == 50 and all(app.seen)


@pytest.mark.parametrize("where", ["__init__.py", "prestartup_script.py"])
async def test_a_pack_that_takes_too_long_is_waited_for_no_more_and_counts_when_it_has_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    late = types.ModuleType("late_pack_gate")
    late.go = threading.Event()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "late_pack_gate", late)
    wait = "import late_pack_gate\nassert late_pack_gate.go.wait(20)\n"
    if where == "__init__.py":
        pack(tmp_path, "a_late", wait + v1("Late"))
    else:
        pack(tmp_path, "a_late", v1("Late"), **{where: wait})
    pack(tmp_path, "b", v1("B"))
    async with make_app(tmp_path, **{"nodes.load_timeout": 0.2}) as app:
        changed: asyncio.Queue[Any] = asyncio.Queue()
        app.events.subscribe(changed.put_nowait, PacksChanged)
        assert states(app) == {"a_late": "loading", "b": "loaded"}
        assert "Late" not in app.nodes and "B" in app.nodes
        late.go.set()  # type: ignore[attr-defined]
        change = await asyncio.wait_for(changed.get(), 20)
        assert (change.name, change.state) == ("a_late", "loaded")
        assert "Late" in app.nodes and app.object_info.one("Late") is not None


async def test_an_entry_point_whose_loop_ends_is_not_waited_for(tmp_path: Path) -> None:
    pack(
        tmp_path,
        "stops",
        "import asyncio\nasync def comfy_entrypoint():\n"
        "    asyncio.get_running_loop().stop()\n    await asyncio.sleep(1)\n",
    )
    async with make_app(tmp_path) as app:
        (info,) = app.packs.infos()
        assert info.state == "failed" and "its event loop ended before comfy_entrypoint() did" in info.error
