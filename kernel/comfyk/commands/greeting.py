"""What `comfyk start` says: what runs here, where it can be reached, what did not load, and how to stop it."""

from __future__ import annotations

import logging
import os
import platform
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import comfyk
from comfyk.pack_info import PackInfo

if TYPE_CHECKING:
    from comfyk.app import App
    from comfyk.plugins import Plugins

log = logging.getLogger(__name__)


def make_base(app: App) -> None:
    """Make the base folder if it is missing, and say so; and at the first start the folders for models and packs.

    Raises OSError. Folders that cannot be made for models are only told: they may lie on a disk that is read-only.
    """
    base = app.folders.base
    if not base.is_dir():
        base.mkdir(parents=True, exist_ok=True)
        log.info("made the base directory %s, which was not there", base)
    try:
        app.folders.create_for_models()
    except OSError as error:
        log.warning("folders for models and packs cannot be made: %s", error)


def say_what_runs(app: App, plugins: Plugins) -> None:
    """Versions, the base folder, plugins."""
    python = platform.python_version()
    log.info("comfyk %s on Python %s, %s", comfyk.__version__, python, _system())
    log.info("base directory: %s", app.folders.base)
    told = [", ".join(plugins.names("enabled")) or "none"]
    if failed := plugins.names("failed"):
        told.append(f"failed: {', '.join(failed)} (`comfyk plugin list` says why)")
    if disabled := plugins.names("disabled"):
        told.append(f"disabled: {', '.join(disabled)}")
    log.info("plugins: %s", "; ".join(told))


def say_where(addresses: Iterable[str]) -> None:
    """Every address beside the first, which the plugin that listens has told."""
    for address in list(addresses)[1:]:
        log.info("also at: %s", address)
    # A plugin's `exit()` closes it.
    typed = sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()
    log.info("to stop it: %s", "Ctrl-C" if typed else f"Ctrl-C, or SIGTERM to {os.getpid()}")


def say_packs(app: App) -> None:
    """How many nodes there are in all, and one line for each pack that is not there."""
    infos = app.packs.infos()
    told = (
        f"packs: {_count(infos, 'loaded')} loaded, {_count(infos, 'failed')} failed" if infos else "no packs"
    )
    log.info("%d nodes; %s", len(app.nodes), told)
    for info in infos:
        if info.state == "failed":
            log.error("pack %s failed: %s; `comfyk plugin list` shows where", info.name, info.reason)
        elif info.state == "disabled" and info.reason:
            log.warning("pack %s is left out: %s", info.name, info.reason)
        elif info.state == "loaded" and info.error:
            log.warning("pack %s loaded, but not all of it: %s", info.name, _last_line(info))


def _count(infos: Iterable[PackInfo], state: str) -> int:
    return sum(info.state == state for info in infos)


def _last_line(info: PackInfo) -> str:
    lines = info.error.strip().splitlines()
    return lines[-1] if lines else ""


def _system() -> str:
    return f"{platform.system()} {platform.machine()}".strip()
