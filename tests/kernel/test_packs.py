"""Node packs in `custom_nodes`: what loads, what is left out, and what a failing one leaves behind."""

from __future__ import annotations

import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest
from comfyk import hookimpl
from comfyk.app import App
from comfyk.packs import PackInfo
from comfyk.plugins import Plugins

from .pack_files import load, pack, states, v1, v3


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
