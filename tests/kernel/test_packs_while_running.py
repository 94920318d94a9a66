"""Node packs that come and go while a server runs: between jobs, and never under one."""

from __future__ import annotations

import asyncio
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest
from comfyk import hookimpl
from comfyk.app import App
from comfyk.execution.executor import ThreadExecutor
from comfyk.packs import PackInfo, PacksChanged
from comfyk.plugins import Plugins

from .pack_files import load, make_app, pack, states, v1, v3


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
