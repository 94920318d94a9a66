"""Node packs in `custom_nodes`: what loads, what is left out, and what a failing one leaves behind."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from comfyk import hookimpl
from comfyk.app import App
from comfyk.packs import PackInfo
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
    path.parent.mkdir(exist_ok=True)
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
    await app.packs.load_async()
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
    app.packs.unload("a")
    assert app.nodes.names() == [] and app.packs.infos() == []
    with pytest.raises(KeyError):
        app.packs.unload("a")
