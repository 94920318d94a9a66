"""Node packs: folders and `.py` files in `custom_nodes` that add nodes and scripts for the web UI.

A pack that fails is recorded with its traceback; nothing of it stays registered, and the others load. Packs
can be loaded and unloaded while the server runs.
"""

from __future__ import annotations

import importlib.util
import inspect
import logging
import sys
import time
import tomllib
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from comfyk.nodes.registry import define

if TYPE_CHECKING:
    from comfyk.app import App

log = logging.getLogger(__name__)

_OWN_FRAMES = (__file__, "<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>")

PackState = Literal["loading", "loaded", "failed", "disabled"]


@dataclass(slots=True)
class PackInfo:
    """One entry of a `custom_nodes` folder."""

    name: str
    """The folder's or file's name, without `.py`."""
    path: Path
    state: PackState = "loading"
    error: str = ""
    """Why it failed, with the traceback; also what went wrong in a pack that loaded all the same."""
    nodes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    """How long it took to load."""


@dataclass(slots=True)
class _Pack:
    info: PackInfo
    module: str = ""
    web: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    """What it added to `sys.path`."""
    entrypoint: Any = None
    """`comfy_entrypoint`, to be called once there is a loop."""


class Packs:
    """The packs of an app, by name. Loading is in two steps, because an entry point may be async."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._packs: dict[str, _Pack] = {}

    def infos(self) -> list[PackInfo]:
        """What became of each pack, in the order they were loaded."""
        return [pack.info for pack in self._packs.values()]

    def load(self) -> None:
        """Import every pack in the `custom_nodes` folders that the settings allow. Never raises."""
        paths = list(self._find())
        for path in paths:
            self._prestart(self._packs[pack_name(path)])
        for path in paths:
            self._load(self._packs[pack_name(path)])

    async def load_async(self) -> None:
        """Call the entry points of the packs that `load` imported. Never raises."""
        for pack in list(self._packs.values()):
            await self._enter(pack)

    async def load_pack(self, path: Path) -> PackInfo:
        """Load one pack now, anew if it was loaded before. Its `state` and `error` say what became of it."""
        name = pack_name(path)
        if name in self._packs:
            self.unload(name)
        pack = self._packs[name] = _Pack(PackInfo(name, path))
        self._prestart(pack)
        self._load(pack)
        await self._enter(pack)
        return pack.info

    def unload(self, name: str) -> None:
        """Take a pack's nodes, scripts and modules away. Raises KeyError when there is no such pack."""
        self._remove(self._packs.pop(name))

    def _find(self) -> Iterator[Path]:
        """The packs to load, by folder and name. Those left out are noted as disabled."""
        settings = self._app.settings.nodes
        for folder in self._app.folders.paths("custom_nodes"):
            try:
                entries = sorted(folder.iterdir())
            except OSError:
                continue
            for path in entries:
                if path.name.startswith(".") or path.name == "__pycache__":
                    continue
                if path.is_file() and path.suffix != ".py" and not path.name.endswith(".py.disabled"):
                    continue
                name = pack_name(path)
                if name in self._packs:
                    log.warning("skipping %s: %s has the same name", path, self._packs[name].info.path)
                    continue
                pack = self._packs[name] = _Pack(PackInfo(name, path))
                listed = path.name in settings.whitelist or name in settings.whitelist
                if path.name.endswith(".disabled") or (settings.disable_custom and not listed):
                    pack.info.state = "disabled"
                    continue
                yield path

    def _prestart(self, pack: _Pack) -> None:
        """Run the pack's `prestartup_script.py`, which may prepare the process for any pack's import."""
        script = pack.info.path / "prestartup_script.py"
        if not script.is_file():
            return
        try:
            _execute(f"{_module_name(pack.info.path)}.prestartup_script", script)
        except (Exception, SystemExit):
            pack.info.error = traceback.format_exc()
            log.error("pack %s: its prestartup_script.py failed\n%s", pack.info.name, pack.info.error)

    @contextmanager
    def _step(self, pack: _Pack) -> Iterator[None]:
        """Time a step of loading, and turn what it raises into the pack's failure."""
        began = time.perf_counter()
        path_before = set(sys.path)
        try:
            try:
                yield
            finally:
                pack.paths += [path for path in sys.path if path not in path_before]
        except (Exception, SystemExit) as error:
            self._remove(pack)
            pack.info.state = "failed"
            pack.info.error = _traceback(error)
            log.error("pack %s failed to load\n%s", pack.info.name, pack.info.error)
        finally:
            pack.info.seconds += time.perf_counter() - began
        if pack.info.state == "loaded":
            log.info("pack %s: %d nodes in %.2f s", pack.info.name, len(pack.info.nodes), pack.info.seconds)

    def _load(self, pack: _Pack) -> None:
        app, info = self._app, pack.info
        with self._step(pack), app.active():
            if app.hook.comfyk_load_pack(path=info.path, pack=info):
                info.state = "loaded"
                return
            pack.module = _module_name(info.path)
            file = info.path if info.path.is_file() else info.path / "__init__.py"
            module = _execute(pack.module, file, keep=True)
            self._add_web(pack, module)
            classes = getattr(module, "NODE_CLASS_MAPPINGS", None)
            if classes is not None:
                names = getattr(module, "NODE_DISPLAY_NAME_MAPPINGS", None) or {}
                for name, cls in classes.items():
                    self._add_node(pack, cls, name, names.get(name))
                info.state = "loaded"
            elif callable(getattr(module, "comfy_entrypoint", None)):
                pack.entrypoint = module.comfy_entrypoint
            else:
                raise ImportError("it has neither NODE_CLASS_MAPPINGS nor comfy_entrypoint()")

    async def _enter(self, pack: _Pack) -> None:
        if pack.entrypoint is None:
            return
        entrypoint, pack.entrypoint = pack.entrypoint, None
        with self._step(pack), self._app.active():
            extension = await _maybe_await(entrypoint())
            if not callable(getattr(extension, "get_node_list", None)):
                raise TypeError("comfy_entrypoint() did not return an extension with get_node_list()")
            if callable(getattr(extension, "on_load", None)):
                await _maybe_await(extension.on_load())
            for cls in await _maybe_await(extension.get_node_list()):
                self._add_node(pack, cls, None, None)
            pack.info.state = "loaded"

    def _add_node(self, pack: _Pack, cls: type, name: str | None, display_name: str | None) -> None:
        registry, source = self._app.nodes, pack_source(pack.info.name)
        try:
            node = define(cls, name=name, display_name=display_name, python_module=source)
        except Exception as error:
            # The pack's other nodes may be all that a workflow needs.
            problem = f"node {name or getattr(cls, '__name__', cls)}: {_traceback(error)}"
            pack.info.error = "\n".join(filter(None, (pack.info.error, problem)))
            log.error("pack %s: %s", pack.info.name, problem)
            return
        if node.name in registry and not registry.source(node.name).startswith(pack_source("")):
            log.warning("pack %s: node %s is left out, the core has one", pack.info.name, node.name)
            return
        registry.add(node, source=source)
        pack.info.nodes.append(node.name)

    def _add_web(self, pack: _Pack, module: ModuleType) -> None:
        """Note the folders of scripts that the pack names in its module and in its `pyproject.toml`."""
        path = pack.info.path
        root = path if path.is_dir() else path.parent
        found: dict[str, str] = {}
        project = root / "pyproject.toml"
        if path.is_dir() and project.is_file():
            try:
                config = tomllib.loads(project.read_text(encoding="utf-8"))
                web = config.get("tool", {}).get("comfy", {}).get("web")
                if web:
                    found[str(config.get("project", {}).get("name") or pack.info.name)] = str(web)
            except (OSError, ValueError, AttributeError) as error:
                log.warning("pack %s: pyproject.toml cannot be read: %s", pack.info.name, error)
        web = getattr(module, "WEB_DIRECTORY", None)
        if web:
            found[pack.info.name] = str(web)
        for name, web in found.items():
            directory = (root / web).resolve()
            if not directory.is_relative_to(root.resolve()):
                raise ValueError(f"its web directory {web!r} is outside of the pack")
            if directory.is_dir():
                self._app.web_directories[name] = directory
                pack.web.append(name)

    def _remove(self, pack: _Pack) -> None:
        self._app.nodes.remove_source(pack_source(pack.info.name))
        for name in pack.web:
            self._app.web_directories.pop(name, None)
        sys.path[:] = [path for path in sys.path if path not in pack.paths]
        pack.web.clear()
        pack.info.nodes.clear()
        pack.entrypoint = None
        if pack.module:
            for name in [name for name in sys.modules if _belongs(name, pack.module)]:
                del sys.modules[name]


def pack_name(path: Path) -> str:
    """The name of the pack at a path: `custom_nodes/foo`, `foo.py` and `foo.disabled` are all `foo`."""
    return path.name.removesuffix(".disabled").removesuffix(".py")


def pack_source(name: str) -> str:
    """What a pack's nodes are registered as being from (`python_module` in `object_info`)."""
    return f"custom_nodes.{name}"


def _module_name(path: Path) -> str:
    # Whole paths, so that packs of one name in two apps are two modules. A dot would make it look like a
    # module of a package.
    return str(path.absolute().with_suffix("") if path.is_file() else path.absolute()).replace(".", "_x_")


def _belongs(module: str, pack_module: str) -> bool:
    return module == pack_module or module.startswith(f"{pack_module}.")


def _execute(name: str, file: Path, *, keep: bool = False) -> ModuleType:
    """Run a file as a module; `keep` makes it importable under its name, as a pack's own imports need."""
    if not file.is_file():
        raise ImportError(f"{file} is missing")
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not Python")
    module = importlib.util.module_from_spec(spec)
    if keep:
        importlib.invalidate_caches()
        sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


async def _maybe_await(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _traceback(error: BaseException) -> str:
    """The traceback without the kernel's own frames."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename in _OWN_FRAMES:
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames)).rstrip()
