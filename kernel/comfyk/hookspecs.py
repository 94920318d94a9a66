"""Every hook of comfyk. A plugin is a module whose functions carry `@hookimpl` and bear these names.

    from comfyk import hookimpl

    @hookimpl
    def comfyk_register_nodes(app):
        app.nodes.add(MyNode)

A plugin takes only the arguments it needs. It is found through an entry point in the group `comfyk`, and has the
entry point's name. Unless a hook says otherwise:

- every plugin's function is called, and what it returns is gathered; `async def` is welcome where the hook is
  marked *async*;
- a function that raises is logged with its traceback, reported by `comfyk plugin list`, and the rest go on.

The order in which the hooks of a starting server are called is the order below: settings, folders, nodes, storage,
execution, startup, serve; at the end shutdown.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click
    from pydantic import BaseModel

    from comfyk.app import App
    from comfyk.events import Event
    from comfyk.execution.cache import OutputCache
    from comfyk.execution.executor import Executor
    from comfyk.folders import Folders
    from comfyk.jobs.store import JobStore
    from comfyk.nodes.definition import NodeDef

PROJECT = "comfyk"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


# --- life ---------------------------------------------------------------------------------------------------------


@hookspec
def comfyk_register_settings() -> Mapping[str, type[BaseModel]] | None:  # type: ignore[return]
    """Add sections to the settings: section name -> pydantic model whose fields all have defaults.

    Called first, before there is an app. The section is read from `[name]` in `comfyk.toml`, from
    `COMFYK_NAME__FIELD` and from the command line (see `comfyk.settings.Option`), and is found again as
    `app.settings.section("name")`.
    """


@hookspec
def comfyk_register_commands(cli: click.Group) -> None:
    """Add commands to the `comfyk` command line with `@cli.command()`. Called before a command is looked up."""


@hookspec
def comfyk_startup(app: App) -> Awaitable[None] | None:  # type: ignore[return]
    """*async*. Everything is registered, the queue is not running yet: start what the plugin keeps running."""


@hookspec
def comfyk_serve(app: App) -> Awaitable[list[str] | None] | list[str] | None:  # type: ignore[return]
    """*async*. Begin to listen for clients; return the addresses once they can connect, such as
    `["http://127.0.0.1:8188"]`. Only `comfyk start` calls it.

    An exception ends the start, and so does it when no plugin listens: a server that nobody can reach is none.
    """


@hookspec
def comfyk_shutdown(app: App) -> Awaitable[None] | None:  # type: ignore[return]
    """*async*. The app is stopping; the running job was interrupted and goes back into the queue. Release everything.

    Called in the reverse order of startup, also for a plugin whose own startup failed.
    """


@hookspec
def comfyk_event(app: App, event: Event) -> None:
    """Something happened (`comfyk.events` lists what). Called on the event loop, in order: do not block."""


# --- nodes --------------------------------------------------------------------------------------------------------


@hookspec
def comfyk_register_folders(folders: Folders) -> None:
    """Add kinds of models, or places to look for them, with `folders.add`."""


@hookspec
def comfyk_register_nodes(app: App) -> None:
    """Register node classes with `app.nodes.add(cls)`. Do not import torch here; the port opens after this."""


@hookspec
def comfyk_register_node_replacements(app: App) -> None:
    """Say which nodes take the place of retired ones, with `app.nodes.add_replacement`."""


@hookspec
def comfyk_register_web_directories(app: App) -> Mapping[str, Path] | None:  # type: ignore[return]
    """Scripts for the web UI: name -> folder. Its files are served under `/extensions/NAME/`."""


@hookspec
def comfyk_register_blueprints(app: App) -> Iterable[Path] | None:  # type: ignore[return]
    """Folders whose `.json` files are subgraphs that the web UI offers to everybody (`/global_subgraphs`)."""


@hookspec(firstresult=True)
def comfyk_load_pack(app: App, path: Path) -> bool | None:  # type: ignore[return]
    """Load a node pack (a folder or a `.py` file in `custom_nodes`), and return True when you did.

    The first plugin that returns True ends the search; when none does, the kernel loads the pack as a Python
    module with `NODE_CLASS_MAPPINGS` or `comfy_entrypoint`. An exception is recorded for this pack and the other
    packs load.
    """


# --- routes -------------------------------------------------------------------------------------------------------


@hookspec
def comfyk_register_routes(app: App) -> Any:
    """Return an iterable of `aiohttp.web` route definitions. Each is served at its path and under `/api`.

    Called by the plugin that serves HTTP. A handler with `comfyk.api.operation` gets its query and body read and
    checked, and stands in the OpenAPI document.
    """


@hookspec
def comfyk_register_middlewares(app: App) -> Any:
    """Return an iterable of `aiohttp.web.middleware` functions; they run inside the server's own checks."""


@hookspec
def comfyk_feature_flags(app: App) -> Mapping[str, Any] | None:  # type: ignore[return]
    """Flags to add to `GET /features` and to the answer that a WebSocket client gets."""


@hookspec(firstresult=True)
def comfyk_websocket_message(app: App, client_id: str, message: Mapping[str, Any]) -> bool | None:  # type: ignore[return]
    """A client sent a JSON message. Return True when it was yours; the first to do so ends the call."""


# --- storage ------------------------------------------------------------------------------------------------------


@hookspec(firstresult=True)
def comfyk_open_job_store(app: App) -> JobStore | None:  # type: ignore[return]
    """Open the store that keeps the queue and the history. First result; without one they are kept in memory.

    An exception ends the start, so that no job is accepted which could be lost.
    """


# --- execution ----------------------------------------------------------------------------------------------------


@hookspec
def comfyk_validate_prompt(app: App, prompt: dict[str, Any]) -> Mapping[str, list[dict[str, Any]]] | None:  # type: ignore[return]
    """Look at a prompt before it is queued; it may be changed in place.

    Return errors by node id, each `{"type", "message", "details", "extra_info"}`; a node with an error keeps the
    outputs behind it from running.
    """


@hookspec(firstresult=True)
def comfyk_create_executor(app: App) -> Executor | None:  # type: ignore[return]
    """Make the executor that runs jobs. First result; without one, or when it raises, the
    kernel's own."""


@hookspec(firstresult=True)
def comfyk_create_cache(app: App) -> OutputCache | None:  # type: ignore[return]
    """Make the cache of node results. First result; without one, or when it raises, the kind
    that `execution.cache` names."""


@hookspec
def comfyk_job_context(app: App, job_id: str) -> AbstractContextManager[Any] | None:  # type: ignore[return]
    """A context that the job runs in, on the executor's thread (inference mode, a device ...).

    An exception fails the job.
    """


@hookspec(firstresult=True)
def comfyk_node_call(app: App, node: NodeDef, inputs: Mapping[str, Any]) -> Any:
    """A node is called. For wrappers only: `@hookimpl(wrapper=True)`, `result = yield`, `return result`.

    The result of an async node is its awaitable. An exception fails the node.
    """


@hookspec
def comfyk_node_failed(app: App, node: NodeDef, error: BaseException) -> str | None:  # type: ignore[return]
    """A node raised. Return advice for the user, which is added to the message; free memory if that was it."""


@hookspec
def comfyk_free_memory(app: App, unload_models: bool, free_memory: bool) -> Mapping[str, Any] | None:  # type: ignore[return]
    """Free what can be made again: loaded models, and with `free_memory` also caches. Runs between jobs, on the
    executor's thread. Return what was freed, such as `{"models": 2, "bytes": 4_000_000_000}`.
    """


@hookspec
def comfyk_device_stats(app: App) -> list[dict[str, Any]] | None:  # type: ignore[return]
    """The compute devices, each as `/system_stats` shows it: name, type, index, vram_total, vram_free,
    torch_vram_total, torch_vram_free (bytes).
    """


@hookspec
def comfyk_system_stats(app: App) -> Mapping[str, Any] | None:  # type: ignore[return]
    """Fields to add to the `system` part of `/system_stats`, such as `pytorch_version`."""
