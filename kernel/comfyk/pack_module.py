"""How the kernel loads a pack: as a Python module with `NODE_CLASS_MAPPINGS` or `comfy_entrypoint`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import importlib.util
import inspect
import logging
import os
import sys
import threading
import tomllib
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from comfyk.folders import is_file
from comfyk.foreign_code import describe, is_ours, watch
from comfyk.nodes.registry import NodeRegistry, define
from comfyk.pack_info import PackInfo

log = logging.getLogger(__name__)

_NOT_THE_PACKS = (
    *(f"{Path(file).parent}{os.sep}" for file in (__file__, pluggy.__file__, concurrent.futures.__file__)),
    "<frozen importlib._bootstrap",
)
"""Where the code is that is on the way to a pack's."""

_running: dict[str, Callable[[], None]] = {}
"""By module: what ends the tasks that a pack's entry point left running."""


def load_module(pack: PackInfo, nodes: NodeRegistry, web_directories: dict[str, Path]) -> None:
    """Import a pack and register its nodes and scripts. Raises what the pack raises; ImportError when it is none."""
    path = pack.path
    name = _module_name(path)
    file = path if path.is_file() else path / "__init__.py"
    module = _execute(name, file, keep=True)
    _add_web(web_directories, pack, module)
    classes = getattr(module, "NODE_CLASS_MAPPINGS", None)
    if classes is not None:
        names = getattr(module, "NODE_DISPLAY_NAME_MAPPINGS", None) or {}
        for node, cls in classes.items():
            _add_node(nodes, pack, cls, node, names.get(node))
    elif callable(getattr(module, "comfy_entrypoint", None)):
        for cls in _in_a_loop_of_its_own(name, _enter(module.comfy_entrypoint)):
            _add_node(nodes, pack, cls, None, None)
    else:
        raise ImportError("it has neither NODE_CLASS_MAPPINGS nor comfy_entrypoint()")


def unload_module(pack: PackInfo) -> None:
    """End what the pack's entry point left running. Its module goes with all modules of the pack."""
    end = _running.pop(_module_name(pack.path), None)
    if end is not None:
        end()


def run_prestartup(pack: PackInfo) -> None:
    """Run the pack's `prestartup_script.py`, which may prepare the process for any pack's import. Never raises."""
    script = pack.path / "prestartup_script.py"
    if not is_file(script):
        return
    try:
        with watch("the prestartup_script.py of the pack", pack.name):
            _execute(f"{_module_name(pack.path)}.prestartup_script", script)
    except BaseException as error:
        if is_ours(error):
            raise
        pack.error = traceback_of(error)
        log.error("pack %s: its prestartup_script.py failed\n%s", pack.name, pack.error)


def forget_modules(path: Path) -> None:
    """Take the modules whose files are in a pack out of `sys.modules`, so that they are imported anew."""
    own, inside = _module_name(path), f"{path.absolute()}/"
    for name, module in sys.modules.copy().items():
        file = _file_of(module)
        is_inside = isinstance(file, str) and file.replace("\\", "/").startswith(inside.replace("\\", "/"))
        if name == own or name.startswith(f"{own}.") or is_inside:
            del sys.modules[name]


def _file_of(module: object) -> Any:
    """A module's file. One that imports what it is asked for, and may fail in it, is not asked."""
    try:
        return object.__getattribute__(module, "__dict__").get("__file__")
    except Exception:  # whatever is in sys.modules
        return None


def traceback_of(error: BaseException) -> str:
    """The traceback from the pack's own code on."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_NOT_THE_PACKS):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames)).rstrip()


# --- modules ----------------------------------------------------------------------------------------------------


def _module_name(path: Path) -> str:
    # Whole paths, so that packs of one name in two apps are two modules. A dot would make it look like a
    # module of a package.
    return str(path.absolute().with_suffix("") if path.suffix == ".py" else path.absolute()).replace(
        ".", "_x_"
    )


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


# --- entry points -----------------------------------------------------------------------------------------------


async def _enter(entrypoint: Any) -> list[type]:
    extension = await _maybe_await(entrypoint())
    if not callable(getattr(extension, "get_node_list", None)):
        raise TypeError("comfy_entrypoint() did not return an extension with get_node_list()")
    if callable(getattr(extension, "on_load", None)):
        await _maybe_await(extension.on_load())
    return list(await _maybe_await(extension.get_node_list()))


async def _maybe_await(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _in_a_loop_of_its_own(module: str, work: Coroutine[Any, Any, Any]) -> Any:
    """The result of what is async in a pack.

    It may block, which the server's own loop may not; and it may start tasks that go on, so its loop lives as long as
    these do.
    """
    done: concurrent.futures.Future[Any] = concurrent.futures.Future()

    async def run() -> None:
        loop, this = asyncio.get_running_loop(), asyncio.current_task()

        def cancel_others() -> None:
            for task in asyncio.all_tasks(loop):
                if task is not this:
                    task.cancel()

        def end() -> None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                loop.call_soon_threadsafe(cancel_others)

        try:
            result = await work
        except asyncio.CancelledError:
            raise  # its loop ends: that has a reason
        except BaseException as error:
            done.set_exception(error)
            return
        if len(asyncio.all_tasks()) > 1:
            _running[module] = end
        done.set_result(result)
        while others := asyncio.all_tasks() - {this}:
            await asyncio.wait(others)
        if _running.get(module) is end:
            del _running[module]

    def live() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:  # perhaps of another task of the pack
            if done.done():
                log.error("the event loop of the pack %s has ended: %s", Path(module).name, describe(error))
            else:
                problem = f"its event loop ended before comfy_entrypoint() did: {describe(error)}"
                done.set_exception(RuntimeError(problem))

    context = contextvars.copy_context()
    threading.Thread(
        target=context.run, args=(live,), name=f"comfyk-pack-{Path(module).name}", daemon=True
    ).start()
    return done.result()


# --- nodes and scripts ------------------------------------------------------------------------------------------


def _add_node(
    nodes: NodeRegistry, pack: PackInfo, cls: type, name: str | None, display_name: str | None
) -> None:
    try:
        node = define(cls, name=name, display_name=display_name, python_module=pack.source)
    except BaseException as error:
        if is_ours(error):
            raise
        # The pack's other nodes may be all that a workflow needs.
        problem = f"node {name or getattr(cls, '__name__', cls)}: {traceback_of(error)}"
        pack.error = "\n".join(filter(None, (pack.error, problem)))
        log.error("pack %s: %s", pack.name, problem)
        return
    if node.name in nodes and not nodes.source(node.name).startswith(pack.source.removesuffix(pack.name)):
        log.warning("pack %s: node %s is left out, the core has one", pack.name, node.name)
        return
    nodes.add(node, source=pack.source)


def _add_web(web_directories: dict[str, Path], pack: PackInfo, module: ModuleType) -> None:
    """Note the folders of scripts that the pack names in its module and in its `pyproject.toml`."""
    path = pack.path
    root = path if path.is_dir() else path.parent
    found: dict[str, str] = {}
    project = root / "pyproject.toml"
    if path.is_dir() and project.is_file():
        try:
            config = tomllib.loads(project.read_text(encoding="utf-8"))
            web = config.get("tool", {}).get("comfy", {}).get("web")
            if web:
                found[str(config.get("project", {}).get("name") or pack.name)] = str(web)
        except (OSError, ValueError, AttributeError) as error:
            log.warning("pack %s: pyproject.toml cannot be read: %s", pack.name, error)
    web = getattr(module, "WEB_DIRECTORY", None)
    if web:
        found[pack.name] = str(web)
    for name, web in found.items():
        directory = (root / web).resolve()
        if not directory.is_relative_to(root.resolve()):
            raise ValueError(f"its web directory {web!r} is outside of the pack")
        if directory.is_dir():
            web_directories[name] = directory
