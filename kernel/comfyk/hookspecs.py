"""Every hook of comfyk. A plugin is a module whose functions carry `@hookimpl` and bear these names.

    from comfyk import hookimpl

    @hookimpl
    def comfyk_register_nodes(app):
        app.nodes.add(MyNode)

A plugin takes only the arguments it needs. It is found through an entry point in the group `comfyk`, and has the
entry point's name. What holds for all hooks:

- Every plugin's function is called, in alphabetical order of the plugins (`@hookimpl(tryfirst=True)` and
  `trylast=True` move one), and what they return is gathered in a list without the Nones. A *first result* hook ends
  with the first plugin that returns something. What the kernel itself brings is a plugin too, called last.
- `@hookimpl(wrapper=True)` makes a function that surrounds the others: it yields once, gets their result, and returns
  that or another.
- In an *async* hook a function may be `async def` or return an awaitable; each is awaited before the next is called.
- What is returned has to fit the annotation here.
- A function that raises, or returns something else, is logged with its traceback and reported by `comfyk plugin list`;
  it counts as one that returned None, and the others are called. Where a hook says otherwise (*raises*), the exception
  ends the call.

The order in which the hooks of a starting server are called is the order below: settings, packs, folders, nodes,
storage, execution, startup, serve; at the end shutdown. A plugin adds hooks of its own for others with
`comfyk_add_hooks`.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Awaitable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from comfyk.database import Database
from comfyk.doctor import Finding
from comfyk.execution.cache import OutputCache
from comfyk.graph.validation import PromptError
from comfyk.hooks import hookspec
from comfyk.jobs.executor import Executor
from comfyk.jobs.store import JobStore

if TYPE_CHECKING:
    import click

    from comfyk.app import App
    from comfyk.events import Event
    from comfyk.folders import Folders
    from comfyk.jobs.model import Job, Outcome
    from comfyk.nodes.definition import NodeDef
    from comfyk.pack_info import PackInfo
    from comfyk.settings import Settings


# --- life ---------------------------------------------------------------------------------------------------------


@hookspec
def comfyk_add_hooks() -> Any:
    """Add hooks of your own for other plugins: return the module (or object) whose functions are marked with
    `comfyk.hookspec`. They are then called as `app.hook.NAME(...)`.

    When: all plugins are imported; nothing else was called before. Also without a server.
    Thread: the main thread.
    Return: a module or object with hookspecs; their names begin with `comfyk_`.
    On error: recorded, also when a name is taken; none of its hooks is added.
    Since: 0.1.
    """


@hookspec
def comfyk_register_settings() -> Mapping[str, type[BaseModel]] | None:  # type: ignore[return]
    """Add sections to the settings: section name -> pydantic model whose fields all have defaults.

    The section is read from `[name]` in `comfyk.toml`, from `COMFYK_NAME__FIELD` and from the command line (see
    `comfyk.settings.Option`), and is found again as `app.settings.section("name")`.

    When: before there is an app, in every command.
    Thread: the main thread.
    Return: sections by name.
    On error: recorded; the plugin has no section.
    Since: 0.1.
    """


@hookspec
def comfyk_register_commands(cli: click.Group) -> None:
    """Add commands to the `comfyk` command line with `@cli.command()`.

    When: a command is looked up that the kernel has not got, or help is shown.
    Thread: the main thread.
    May: import `click` only; the rest is imported in the command.
    Return: nothing.
    On error: recorded; commands that were added stay.
    Since: 0.1.
    """


@hookspec(firstresult=True)
def comfyk_create_event_loop(settings: Settings) -> AbstractEventLoop | None:  # type: ignore[return]
    """Make the event loop that the server lives on. *First result.*

    When: in `comfyk start`, before there is an app; never in other commands.
    Thread: the main thread.
    Return: a new event loop; the kernel's is `asyncio.new_event_loop()`. Nodes do not run on it.
    On error: recorded; the next plugin is asked.
    Since: 0.1.
    """


@hookspec
async def comfyk_startup(app: App) -> None:
    """Start what the plugin keeps running.

    When: the plugins' nodes are registered, the store is open; the queue does not run yet, nobody listens, and no pack
        is loaded. A task of yours may await `app.packs_loaded()`; this function itself may not. A job that it submits
        is checked against the plugins' nodes alone, and runs when the queue does.
    Thread: the event loop's; blocking delays the start.
    Return: nothing.
    On error: recorded; the server starts all the same.
    Since: 0.1.
    """


@hookspec(raises=True)
async def comfyk_serve(app: App) -> list[str] | None:  # type: ignore[return]
    """Begin to listen for clients.

    When: last in `comfyk start`; never in other commands.
    Thread: the event loop's.
    Return: the addresses, once clients can connect, such as `["http://127.0.0.1:8188"]`.
    On error: *raises*: the start ends. It also ends when no plugin returns an address: a server that nobody can
        reach is none.
    Since: 0.1.
    """


@hookspec(reverse=True, patience_s=10)
async def comfyk_shutdown(app: App) -> None:
    """Release everything.

    When: the app stops; running jobs were interrupted and are back in the queue. In the reverse order of startup, and
        also for a plugin whose own startup failed. `app.restarting` says whether it starts again at once.
    Thread: the event loop's.
    Return: nothing.
    On error: recorded; the others shut down.
    Since: 0.1.
    """


@hookspec
def comfyk_event(app: App, event: Event) -> None:
    """Something happened; `comfyk.events` lists what, beside `comfyk.packs.PacksChanged` and
    `comfyk.tasks.TaskChanged`.

    When: after each event, in order. `app.events.subscribe(listener, *types)` hears fewer and costs less.
    Thread: the event loop's: do not block.
    Return: nothing.
    On error: recorded once for each message.
    Since: 0.1.
    """


# --- packs and folders ----------------------------------------------------------------------------------------------


@hookspec
def comfyk_register_folders(folders: Folders) -> None:
    """Add kinds of models, or places to look for them, with `folders.add`.

    When: first of all registrations. Also on an app that never starts.
    Thread: the main thread.
    Return: nothing.
    On error: recorded; what was added stays.
    Since: 0.1.
    """


@hookspec
def comfyk_before_packs(app: App) -> None:
    """Prepare the process for node packs: `sys.path`, modules that they expect.

    When: plugins' nodes are registered, no pack was touched. Also on an app that never starts.
    Thread: the main thread.
    Return: nothing.
    On error: recorded; packs load.
    Since: 0.1.
    """


@hookspec
def comfyk_supply_packs(app: App) -> Iterable[Path] | None:  # type: ignore[return]
    """Packs beside those in the `custom_nodes` folders. `nodes.disable_custom` and the whitelist hold for them too.

    When: packs are looked for, at the start. Also on an app that never starts.
    Thread: the main thread.
    Return: folders and `.py` files, each one pack. Of two with one name the first counts, `custom_nodes` before all.
    On error: recorded.
    Since: 0.1.
    """


@hookspec(firstresult=True)
def comfyk_veto_pack(app: App, path: Path) -> str | None:  # type: ignore[return]
    """Keep a pack from being loaded. *First result*.

    When: before anything of the pack runs, at the start or while running.
    Thread: the main thread at the start, a worker thread while running.
    Return: why not, as the user is to read it; None when you have nothing against it.
    On error: recorded; the others are asked.
    Since: 0.1.
    """


@hookspec(firstresult=True, raises=True)
def comfyk_load_pack(app: App, path: Path, pack: PackInfo) -> bool | None:  # type: ignore[return]
    """Load a node pack, the folder or file at `path`. *First result*; the kernel's own loader is asked last, and
    loads a Python module with `NODE_CLASS_MAPPINGS` or `comfy_entrypoint`.

    Nodes that are registered with `app.nodes.add(cls, source=pack.source)` go when the pack is unloaded, and so does
    what this call puts into `app.web_directories` and `sys.path`, and every module whose file is in the pack's folder.

    When: at the start, once clients can connect, and between jobs while running. Also on an app that never starts.
    Thread: a worker thread; the main thread on an app that never starts. It may block, but after `nodes.load_timeout`
        seconds the others go on without it.
    Return: True when you have loaded it.
    On error: *raises*: the pack has failed, and what was registered in this call is taken back.
    Since: 0.1.
    """


@hookspec(firstresult=True)
def comfyk_unload_pack(app: App, pack: PackInfo) -> bool | None:  # type: ignore[return]
    """Let go of what loading the pack made beside nodes, scripts and modules, such as threads. *First result*.

    When: its nodes and scripts are gone, no job runs.
    Thread: a worker thread.
    Return: True when the pack was yours.
    On error: recorded; the pack counts as unloaded.
    Since: 0.1.
    """


# --- nodes --------------------------------------------------------------------------------------------------------


@hookspec
def comfyk_register_nodes(app: App) -> None:
    """Register node classes with `app.nodes.add(cls)`.

    When: before packs are loaded. Also on an app that never starts.
    Thread: the main thread.
    May: not import torch; the port opens after this.
    Return: nothing.
    On error: recorded; nodes that were added stay.
    Since: 0.1.
    """


@hookspec
def comfyk_register_node_replacements(app: App) -> None:
    """Say which nodes take the place of retired ones, with `app.nodes.add_replacement`.

    When: packs are loaded. Also on an app that never starts.
    Thread: the main thread.
    Return: nothing.
    On error: recorded.
    Since: 0.1.
    """


@hookspec
def comfyk_register_web_directories(app: App) -> Mapping[str, Path] | None:  # type: ignore[return]
    """Scripts for the web UI.

    When: packs are loaded. Also on an app that never starts.
    Thread: the main thread.
    Return: name -> folder; its files are served under `/extensions/NAME/`.
    On error: recorded.
    Since: 0.1.
    """


@hookspec
def comfyk_register_blueprints(app: App) -> Iterable[Path] | None:  # type: ignore[return]
    """Subgraphs that the web UI offers to everybody (`/global_subgraphs`).

    When: they are asked for.
    Thread: the event loop's, or a worker thread.
    Return: folders with `.json` files.
    On error: recorded.
    Since: 0.1.
    """


# --- storage ------------------------------------------------------------------------------------------------------


@hookspec(firstresult=True, raises=True)
def comfyk_open_job_store(app: App) -> JobStore | None:  # type: ignore[return]
    """Open the store that keeps the queue and the history. *First result*; the kernel's keeps them in memory.

    When: once, when an app starts.
    Thread: the event loop's; it may block for a moment.
    Return: a `comfyk.jobs.JobStore`.
    On error: *raises*: the start ends, so that no job is accepted which could be lost.
    Since: 0.1.
    """


@hookspec(firstresult=True, raises=True)
def comfyk_open_database(app: App, name: str, migrations: Path | None) -> Database | None:  # type: ignore[return]
    """Open a database for a plugin: `app.open_database("assets", migrations=...)` calls this. *First result*.

    With SQLite each name has a file of its own, with PostgreSQL a schema of its own. A name is lower-case letters,
    digits and `_`, a letter first (a plugin `my-notes` asks for `my_notes`). `migrations` is a folder of
    alembic revisions, which are applied.

    When: a plugin asks, usually in its startup.
    Thread: a worker thread; it may block.
    Return: a `comfyk.database.Database`, whose `engine` is SQLAlchemy's.
    On error: *raises* in the plugin that asked.
    Since: 0.1.
    """


# --- execution ----------------------------------------------------------------------------------------------------


@hookspec(firstresult=True)
def comfyk_create_executor(app: App) -> Executor | None:  # type: ignore[return]
    """Make the executor that runs jobs. *First result*; the kernel's runs one at a time, in a thread.

    When: once, when an app starts, before startup.
    Thread: the event loop's.
    Return: a `comfyk.jobs.Executor`.
    On error: recorded; the next plugin's is taken.
    Since: 0.1.
    """


@hookspec(firstresult=True)
def comfyk_create_cache(app: App) -> OutputCache | None:  # type: ignore[return]
    """Make the cache of node results. *First result*; the kernel's is of the kind that `execution.cache` names.

    When: the kernel's executor is made.
    Thread: the event loop's.
    Return: a `comfyk.execution.OutputCache`.
    On error: recorded; the next plugin's is taken.
    Since: 0.1.
    """


@hookspec(raises=PromptError)
async def comfyk_validate_prompt(
    app: App, prompt: dict[str, Any], user: str, client_id: str | None, extra_data: dict[str, Any]
) -> Mapping[str, list[dict[str, Any]]] | None:  # type: ignore[return]
    """Look at a prompt before it is queued; the prompt and its `extra_data` may be changed in place.

    When: its shape was checked, its nodes not yet.
    Thread: the event loop's.
    Return: errors by node id, each `{"type", "message", "details", "extra_info"}`; a node with an error keeps the
        outputs behind it from running.
    On error: `comfyk.graph.PromptError` refuses the prompt as a whole. Anything else is recorded, and the prompt
        goes on.
    Since: 0.1.
    """


@hookspec
def comfyk_before_job(app: App, job: Job) -> Awaitable[Any] | None:  # type: ignore[return]
    """Say what the job has to wait for before it starts: an import, a download.

    While it waits it can be cancelled, and a crash of the server does not count as an attempt of the job.

    When: its turn has come, in the kernel's executor.
    Thread: the event loop's: do not block.
    Return: something to await; None when it can start at once.
    On error: recorded, also when what is awaited raises; the job starts.
    Since: 0.1.
    """


@hookspec(raises=True)
def comfyk_job_context(app: App, job: Job) -> AbstractContextManager[Any] | None:  # type: ignore[return]
    """A context that the job runs in: inference mode, a device.

    When: the job starts, in the kernel's executor.
    Thread: the executor's; it is entered and left there.
    Return: a context manager.
    On error: *raises*: the job fails.
    Since: 0.1.
    """


@hookspec(firstresult=True, raises=True)
def comfyk_node_call(app: App, node: NodeDef, inputs: Mapping[str, Any]) -> Any:
    """A node is called: for wrappers, `@hookimpl(wrapper=True)`, `result = yield`, `return result`.

    When: each time that a node's function is called. The result of an async node is its awaitable.
    Thread: the executor's.
    Return: the result.
    On error: *raises*: the node fails.
    Since: 0.1.
    """


@hookspec
def comfyk_node_failed(app: App, node: NodeDef, error: BaseException) -> str | None:  # type: ignore[return]
    """A node raised: free memory if that was it, and give advice.

    When: a job ends with an error.
    Thread: the executor's.
    Return: advice for the user, which is added to the message.
    On error: recorded.
    Since: 0.1.
    """


@hookspec
def comfyk_node_output(app: App, job: Job, node_id: str, output: dict[str, Any]) -> None:
    """A node has something to show, such as `{"images": [{"filename", "subfolder", "type"}]}`. Add to it in place.

    When: before clients are told and before it is kept, with whatever executor.
    Thread: whichever the executor tells it on; it may block, and the job waits.
    Return: nothing.
    On error: recorded; what was added stays.
    Since: 0.1.
    """


@hookspec
async def comfyk_job_finished(app: App, job: Job, outcome: Outcome) -> None:
    """A job has ended, well or not; `outcome.outputs` may be added to.

    When: before the outcome is stored and clients are told, which wait for it. Also for jobs that end without
        running (cancelled while waiting, given up after crashes).
    Thread: the event loop's.
    Return: nothing.
    On error: recorded.
    Since: 0.1.
    """


@hookspec
def comfyk_free_memory(app: App, unload_models: bool, free_memory: bool) -> Mapping[str, Any] | None:  # type: ignore[return]
    """Free what can be made again: loaded models, and with `free_memory` also caches.

    When: between jobs, for `POST /free`, and (with `free_memory` alone) each time a pack was unloaded or is loaded
        anew, so that nothing of its nodes is kept.
    Thread: the executor's.
    Return: what was freed, such as `{"models": 2, "bytes": 4_000_000_000}`.
    On error: recorded.
    Since: 0.1.
    """


@hookspec
def comfyk_device_stats(app: App) -> list[dict[str, Any]] | None:  # type: ignore[return]
    """The compute devices.

    When: `/system_stats` is asked for.
    Thread: a worker thread.
    Return: each as `/system_stats` shows it: name, type, index, vram_total, vram_free, torch_vram_total,
        torch_vram_free (bytes).
    On error: recorded.
    Since: 0.1.
    """


@hookspec
def comfyk_system_stats(app: App) -> Mapping[str, Any] | None:  # type: ignore[return]
    """Fields to add to the `system` part of `/system_stats`, such as `pytorch_version`.

    When: `/system_stats` is asked for.
    Thread: a worker thread.
    Return: fields by name.
    On error: recorded.
    Since: 0.1.
    """


# --- files --------------------------------------------------------------------------------------------------------


@hookspec
async def comfyk_file_saved(app: App, path: Path, folder: str, user: str) -> Mapping[str, Any] | None:  # type: ignore[return]
    """A file came in from a client and lies in its place; `folder` is `input`, `output` or `temp`.

    When: before the upload is answered.
    Thread: the event loop's.
    Return: fields to add to the answer.
    On error: recorded; the file stays.
    Since: 0.1.
    """


@hookspec(firstresult=True)
def comfyk_resolve_file(app: App, name: str) -> Path | None:  # type: ignore[return]
    """Find the file that a name such as `blake3:...` means. *First result*; plain names never come here.

    When: a client asks for a file (`/view`), or a node reads an input.
    Thread: any: a worker thread, or the executor's.
    Return: the file.
    On error: recorded; the others are asked.
    Since: 0.1.
    """


# --- routes -------------------------------------------------------------------------------------------------------


@hookspec
def comfyk_register_routes(app: App) -> Iterable[Any] | None:  # type: ignore[return]
    """Serve more paths. A handler with `comfyk.api.operation` gets its query and body read and checked, and stands in
    the OpenAPI document.

    When: the plugin that serves HTTP starts. Also on an app that never starts (`comfyk openapi`): read no state here.
    Thread: the main thread.
    Return: `aiohttp.web` route definitions; each is served at its path and under `/api`.
    On error: recorded; none of the plugin's routes is served.
    Since: 0.1.
    """


@hookspec
def comfyk_register_middlewares(app: App) -> Iterable[Any] | None:  # type: ignore[return]
    """Surround every request.

    When: the plugin that serves HTTP starts. Also on an app that never starts.
    Thread: the main thread.
    Return: `aiohttp.web.middleware` functions; they run inside the server's own checks.
    On error: recorded.
    Since: 0.1.
    """


@hookspec
def comfyk_feature_flags(app: App) -> Mapping[str, Any] | None:  # type: ignore[return]
    """Flags to add to `GET /features` and to the answer that a WebSocket client gets.

    When: they are asked for.
    Thread: the event loop's: do not block.
    Return: flags; those of all plugins are merged in depth.
    On error: recorded.
    Since: 0.1.
    """


@hookspec
def comfyk_page_scripts(app: App) -> Iterable[str] | None:  # type: ignore[return]
    """Scripts that the web UI's page loads before its own.

    When: the page is served.
    Thread: the event loop's: do not block.
    Return: paths on this server, such as `/extensions/hello/first.js`.
    On error: recorded.
    Since: 0.1.
    """


@hookspec(firstresult=True)
def comfyk_websocket_message(app: App, client_id: str, message: Mapping[str, Any]) -> bool | None:  # type: ignore[return]
    """A client sent a JSON message. *First result*.

    When: it comes.
    Thread: the event loop's: do not block.
    Return: True when it was yours.
    On error: recorded; the others are asked.
    Since: 0.1.
    """


# --- keeping and mending ------------------------------------------------------------------------------------------


@hookspec
def comfyk_snapshot(app: App) -> Mapping[str, Any] | None:  # type: ignore[return]
    """What of this plugin belongs into a snapshot of the installation.

    When: a plugin that manages packs takes a snapshot; none that comes with comfyk does yet. Also on an app that never
        starts.
    Thread: a worker thread; it may block.
    Return: JSON; it is kept under the plugin's name.
    On error: recorded; the snapshot has no part of the plugin's.
    Since: 0.1.
    """


@hookspec
def comfyk_restore(app: App, data: Mapping[str, Any]) -> None:
    """Put back what this plugin gave to a snapshot; `data` has every plugin's part under its name.

    When: a plugin that manages packs restores a snapshot; none that comes with comfyk does yet. Also on an app that
        never starts.
    Thread: a worker thread; it may block.
    Return: nothing.
    On error: recorded, and told to the one who restores.
    Since: 0.1.
    """


@hookspec
def comfyk_doctor(app: App) -> Iterable[Finding] | None:  # type: ignore[return]
    """Look for what is wrong with the installation.

    When: `comfyk doctor`, on an app that never starts.
    Thread: the main thread; it may block.
    Return: `comfyk.doctor.Finding`s: what is wrong, how bad it is, what to do.
    On error: recorded, and shown as a finding.
    Since: 0.1.
    """
