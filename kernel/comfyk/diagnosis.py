"""The kernel's own findings in `comfyk doctor`: plugins, generation, packs, folders, disks.

Nothing is changed, nothing is created. What a finding is, for all plugins, is in `comfyk.doctor`.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from comfyk import generation
from comfyk.doctor import Finding
from comfyk.folders import Folders
from comfyk.plugin_info import ERRORS_FILE, PluginInfo, load_errors
from comfyk.settings_sources import did_you_mean

if TYPE_CHECKING:
    from comfyk.app import App

DOCTOR = "comfyk_doctor"

_LITTLE, _TOO_LITTLE = 1_000_000_000, 50_000_000
"""Bytes left on a disk."""


def diagnose(app: App) -> Iterator[Finding]:
    """All that is wrong. May block."""
    yield from _plugins(app)
    yield from _generation(app.folders.user)
    yield from _packs(app.folders)
    yield from _folders(app.folders)
    yield from _extra_folders(app.folders)


def _plugins(app: App) -> Iterator[Finding]:
    plugins = app.plugins
    earlier = load_errors(app.folders.user / ERRORS_FILE)
    for info in plugins.infos():
        known = {error.hook for error in info.errors}
        for error in info.errors:
            if error.hook == DOCTOR:  # whoever asked tells: a plugin may fail in it after this
                continue
            failed = "cannot be loaded" if info.state == "failed" else f"failed in {error.hook}"
            yield Finding("error", f"The plugin {info.name} {failed}: {error.message}", _mend(info))
        for error in earlier.get(info.name, []) if info.state == "enabled" else []:
            if error.hook not in known and error.hook != DOCTOR:
                yield Finding(
                    "warning",
                    f"The plugin {info.name} failed in {error.hook} at the latest start: {error.message}",
                    f"{_mend(info)} If it is mended already, the next start will show it.",
                )
    names = plugins.names()
    for name in sorted(plugins.disabled.difference(names)):
        yield Finding(
            "warning",
            f"The setting plugins.disabled names {name!r}, and no plugin is called that"
            f"{did_you_mean(name, names) or '.'}",
            "Set plugins.disabled to the names that `comfyk plugin list` shows.",
        )


def _mend(info: PluginInfo) -> str:
    upgrade = f"Upgrade {info.distribution}, or leave it out" if info.distribution else "Leave it out"
    return f"`comfyk plugin list` shows where. {upgrade} with `comfyk plugin disable {info.name}`."


def _generation(user: Path) -> Iterator[Finding]:
    try:
        site = generation.current_site(user)
    except generation.GenerationError as error:
        yield Finding("error", f"Packages of node packs are missing: {error}", error.remedy)
        return
    if site is not None and str(site) not in sys.path:
        yield Finding(
            "error",
            f"The packages of node packs in {site} are not in use.",
            "If a line above names a .pth file there, mend the package that it is from. Set folders.user in "
            "comfyk.toml when it is given to `comfyk start` alone.",
        )


def _packs(folders: Folders) -> Iterator[Finding]:
    for folder in folders.paths("custom_nodes"):
        try:
            paths = sorted(folder.iterdir())
        except FileNotFoundError:
            continue
        except OSError as error:
            yield Finding(
                "error",
                f"The node packs in {folder} are left out, it cannot be read: {error.strerror}.",
                "It has to be a folder that this user may read.",
            )
            continue
        for path in paths:
            if path.name.startswith((".", "__pycache__")) or path.name.endswith(".disabled"):
                continue
            try:
                _try_to_read(path)
            except OSError as error:
                yield Finding(
                    "error",
                    f"The node pack {path} cannot be read: {error.strerror}.",
                    f"Let this user read it, put it back, or rename it to {path.name}.disabled.",
                )


def _try_to_read(path: Path) -> None:
    """Raises OSError when a pack is neither a folder nor a file that can be read."""
    if path.is_file():
        if path.suffix == ".py":
            path.open("rb").close()
        return
    os.listdir(path)
    if (init := path / "__init__.py").is_file():
        init.open("rb").close()


def _folders(folders: Folders) -> Iterator[Finding]:
    disks: dict[int, list[tuple[str, Path]]] = {}
    for name in ("output", "input", "temp", "user"):
        path: Path = getattr(folders, name)
        there = next(parent for parent in (path, *path.parents) if os.path.lexists(parent))
        if not there.is_dir():
            what = (
                f"{path} is not a folder" if there == path else f"{path} cannot be made: {there} is no folder"
            )
        elif not os.access(there, os.W_OK | os.X_OK):
            what = f"this user may not write to {there}"
        else:
            disks.setdefault(there.stat().st_dev, []).append((name, there))
            continue
        yield Finding(
            "error",
            f"The {name} folder cannot be used: {what}.",
            f"Make it writable for this user, or set folders.{name} to another place.",
        )
    for places in disks.values():
        names, there = " and ".join(name for name, _ in places), places[0][1]
        free = shutil.disk_usage(there).free
        if free < _LITTLE:
            yield Finding(
                "error" if free < _TOO_LITTLE else "warning",
                f"The disk of the folder {there} has {free / 1e6:,.0f} MB left, for {names}.",
                "Free some space, or set "
                f"{' or '.join(f'folders.{name}' for name, _ in places)} to a place on another disk.",
            )


def _extra_folders(folders: Folders) -> Iterator[Finding]:
    missing = [(file, kind, path) for file, kind, path in folders.extra if not path.is_dir()]
    for file, entries in groupby(missing, key=lambda entry: entry[0]):
        lines = "".join(f"\n{kind}: {path}" for _, kind, path in entries)
        yield Finding(
            "warning",
            f"{file} names what is not a folder:{lines}",
            "Make them, connect their disk, or take them out of the file.",
        )
