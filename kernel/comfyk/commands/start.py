"""`comfyk start`: run the server until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from comfyk.commands.comfyui_options import COMFYUI_OPTIONS
from comfyk.commands.greeting import make_base, say_packs, say_what_runs, say_where
from comfyk.commands.main_loop import Ended, end_within, run_to_end
from comfyk.commands.options import (
    BoundOption,
    Given,
    OptionError,
    option_table,
    peek,
    read_options,
)
from comfyk.commands.session import Session, overrides_of
from comfyk.hook_guards import HookStuck
from comfyk.hook_spec import WrongResult
from comfyk.jobs.store import StoreError
from comfyk.logs import setup_logging
from comfyk.pack_info import PACKS_FILE, save_packs
from comfyk.plugin_info import ERRORS_FILE
from comfyk.settings import Override, Settings, plugin_sections

if TYPE_CHECKING:
    from comfyk.app import App
    from comfyk.plugins import Plugins

log = logging.getLogger(__name__)

# A graph of thousands of nodes is thousands of objects that stay: the default of 700 looks through them all too
# often. The executor collects after long jobs, so that no tensor waits for it.
_GC_THRESHOLD = (50_000, 20, 100)


_STOP_LIMIT_S = 25.0
"""How long a stop in good order may take."""
_LEFT_LIMIT_S = 5.0
"""How long the process may take to end once the server has stopped."""


class NothingListens(Exception):
    """No plugin that lets clients in is loaded."""


async def serve(settings: Settings, plugins: Plugins) -> bool:
    """Serve clients until a plugin, SIGINT or SIGTERM asks to stop; a second signal ends it at once.

    Returns whether to start again.
    Raises NothingListens, and what the app's start raises: StoreError, SettingsError, OSError for a port that
    is in use.
    """
    from comfyk.app import App

    app = App(settings, plugins)
    with _stop_on_signals(app):
        try:
            make_base(app)
            await app.start()
            try:
                say_what_runs(app, plugins)
                addresses = await app.serve()
                if not addresses:
                    raise NothingListens(_why_nothing_listens(plugins))
                say_where(addresses)
                freezing = asyncio.ensure_future(_when_loaded(app))
                await app.wait_for_stop()
                end_within(_STOP_LIMIT_S, 1)
                freezing.cancel()
            finally:
                await app.stop()
        finally:
            plugins.save_errors(app.folders.user / ERRORS_FILE)
            _save_packs(app)
    return app.restarting


def _save_packs(app: App) -> None:
    """For `comfyk plugin list`; it is of no use to anything else."""
    try:
        save_packs(app.folders.user / PACKS_FILE, app.packs.infos())
    except OSError as error:
        log.warning("what became of the packs cannot be written down: %s", error)


async def _when_loaded(app: App) -> None:
    """Tell what became of the packs. What is there by then stays, so no collection need look at it."""
    gc.freeze()
    await app.packs_loaded()
    gc.freeze()
    await asyncio.to_thread(_save_packs, app)
    say_packs(app)


def _why_nothing_listens(plugins: Plugins) -> str:
    failed = [error for info in plugins.infos() for error in info.errors if error.hook == "import"]
    reasons = "".join(f"\n  {error.message}" for error in failed)
    return f"no plugin that serves clients is enabled; see `comfyk plugin list`{reasons}"


async def quick_test(settings: Settings, plugins: Plugins) -> None:
    """Start everything but the listening, and stop."""
    from comfyk.app import App

    app = App(settings, plugins)
    try:
        make_base(app)
        async with app:
            say_what_runs(app, plugins)
            say_packs(app)
    finally:
        plugins.save_errors(app.folders.user / ERRORS_FILE)
        _save_packs(app)


@contextmanager
def _stop_on_signals(app: App) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    asked = False

    def handle(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            os._exit(128 + signum)
        asked = True
        end_within(_STOP_LIMIT_S, 1)  # also when something blocks the loop
        loop.call_soon_threadsafe(app.request_stop, False, signal.Signals(signum).name)

    # Not loop.add_signal_handler: Windows has none.
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start_again() -> None:
    """Run the same command line anew: in this process where the system can replace a program, else in a child."""
    command = [sys.executable, *sys.orig_argv[1:]]
    logging.shutdown()
    sys.stdout.flush()
    if sys.platform == "win32":
        sys.exit(subprocess.call(command))  # noqa: S603
    os.execv(sys.executable, command)  # noqa: S606


class _Start(click.Command):
    """Reads its options from the settings sections, not from click."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.args = []
        ctx.params["words"] = tuple(args)
        ctx.params["help_wanted"] = any(word in ("-h", "--help") for word in args)
        return []


@click.command(cls=_Start, short_help="Run the server.")
@click.pass_context
def start(ctx: click.Context, words: tuple[str, ...], help_wanted: bool) -> None:
    """Run the server, and stop it with Ctrl-C."""
    try:
        session = _session(ctx, words)
        table = option_table(_sections(session.plugins))
        if help_wanted:
            click.echo(_help(ctx, table))
            return
        given = read_options(words, table, COMFYUI_OPTIONS)
    except OptionError as error:
        raise click.UsageError(str(error), ctx) from error
    settings = session.settings_with(given.overrides)
    try:
        setup_logging(settings.logging)
        _say_ignored(given, session.plugins)
        gc.set_threshold(*_GC_THRESHOLD)
        loop = _new_event_loop(settings, session.plugins)
        if given.quick_test:
            run_to_end(quick_test(settings, session.plugins), loop)
        elif run_to_end(serve(settings, session.plugins), loop):
            _start_again()
        end_within(_LEFT_LIMIT_S, 0)
    except (OSError, StoreError, NothingListens, WrongResult, HookStuck, Ended) as error:
        end_within(_LEFT_LIMIT_S, 1)
        log.debug("the start failed", exc_info=True)
        raise click.ClickException(str(error)) from error


def _new_event_loop(settings: Settings, plugins: Plugins) -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = plugins.call("comfyk_create_event_loop", settings=settings)
    if loop.is_closed():
        raise WrongResult(
            f"A plugin's comfyk_create_event_loop returned {loop!r:.80}, which is closed. `comfyk plugin list "
            "--json` shows which has that hook; leave it out with `comfyk plugin disable NAME`."
        )
    return loop


def _session(ctx: click.Context, words: Sequence[str]) -> Session:
    """The session with what decides which plugins are there, which must be known before all options are."""
    outer: Session = ctx.obj
    early = peek(words, ("--config", "--base-directory", "--user-directory", "--set"))
    base, user = ((early[name] or [None])[-1] for name in ("--base-directory", "--user-directory"))
    overrides = {**outer.overrides, **overrides_of(base, early["--set"])}
    if user is not None:  # the packages of node packs are there, and plugins may be among them
        overrides["folders.user"] = Override(user, "--user-directory")
    return Session((early["--config"] or [outer.config])[-1], overrides)


def _sections(plugins: Plugins) -> dict[str, Any]:
    kernel = {name: field.annotation for name, field in Settings.model_fields.items()}
    return kernel | plugin_sections(plugins)


def _say_ignored(given: Given, plugins: Plugins) -> None:
    disabled = [info.name for info in plugins.infos() if info.state != "enabled"]
    perhaps = f" (one not loaded may: {', '.join(disabled)})" if disabled else ""
    for name in given.ignored:
        log.warning("%s is an option of ComfyUI that no plugin here takes%s: it is ignored", name, perhaps)


def _help(ctx: click.Context, table: Mapping[str, BoundOption]) -> str:
    formatter = ctx.make_formatter()
    formatter.write_usage(ctx.command_path, "[OPTIONS]")
    formatter.write_paragraph()
    formatter.write_text("Run the server, and stop it with Ctrl-C.")
    with formatter.section("General"):
        formatter.write_dl(
            [
                ("--config FILE", "The configuration file, instead of comfyk.toml in the base folder."),
                ("--set SECTION.KEY=VALUE", "Change any setting; `comfyk settings show` lists them."),
                ("--quick-test-for-ci", "Start, load everything, and exit."),
                ("--help", "Show this message and exit."),
            ]
        )
    for section in dict.fromkeys(bound.section for bound in table.values()):
        with formatter.section(section.capitalize()):
            formatter.write_dl(
                [(bound.usage(), bound.help()) for bound in table.values() if bound.section == section]
            )
    rest = sorted(name for name in COMFYUI_OPTIONS if name not in table and name != "--quick-test-for-ci")
    with formatter.section("Taken for ComfyUI's launch scripts, and ignored"):
        lines = textwrap.wrap(" ".join(rest), formatter.width - 2, break_on_hyphens=False)
        formatter.write("".join(f"  {line}\n" for line in lines))
    return formatter.getvalue().rstrip()
