"""The Python packages that node packs need: put behind comfyk's own, before plugins are looked for.

They lie in a *generation*, a numbered folder that is made as a whole and not changed afterwards:

    <user folder>/comfyk/generations/current   the number of the one in use, as text
    <user folder>/comfyk/generations/7/site    its packages

Who makes generations and switches between them is not the kernel's business; it reads the pointer, for each `comfyk`
command. A pointer that leads nowhere keeps nothing from starting: then there are no such packages, and the log says so.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from comfyk.folders import Folders, PathOutsideError, resolve_inside
from comfyk.foreign_code import is_ours
from comfyk.kernel_settings import FolderSettings
from comfyk.settings import Settings
from comfyk.settings_sources import Layers

log = logging.getLogger(__name__)

FOLDER = "comfyk/generations"
"""In the user folder."""
POINTER = "current"
SITE = "site"

_NUMBER = re.compile(rb"([1-9][0-9]{0,8})\r?\n?")
_READ = 64
"""Bytes of the pointer: more than any number has."""


class GenerationError(Exception):
    """The packages of the current generation cannot be had; the message says why, `remedy` what to do."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


def activate(user: Path) -> None:
    """Let this process import the packages of the current generation, if there is one. Never raises.

    `.pth` files count as in any site directory. But what the process could import before comes first, so that no
    package of a generation takes the place of one that comfyk runs on.
    """
    try:
        site = current_site(user)
    except GenerationError as error:
        log.warning("%s Starting without the packages of node packs. %s", error, error.remedy)
        return
    if site is None or str(site) in sys.path:
        return
    own = list(sys.path)
    try:
        _add(str(site), own)
    except BaseException as error:
        if is_ours(error):
            raise
        sys.path[:] = own
        log.error(
            "A .pth file in %s fails with %r. Starting without the packages of node packs. %s",
            site, error, _remedy(user / FOLDER),
        )  # fmt: skip


def _add(folder: str, own: list[str]) -> None:
    import site

    finders = list(sys.meta_path)
    try:
        site.addsitedir(folder)
    finally:  # a .pth file may put something in front
        sys.path[:] = own + [path for path in sys.path if path not in own]
        sys.meta_path[:] = finders + [finder for finder in sys.meta_path if finder not in finders]


def current_site(user: Path) -> Path | None:
    """The folder of packages that the pointer in the user folder leads to; None when there is no pointer.

    Raises GenerationError when it leads nowhere, or out of the folder of generations.
    """
    folder = user / FOLDER
    pointer = folder / POINTER
    try:
        content = _read(str(pointer))
        if content is None:
            return None
        resolve_inside(folder, POINTER)
    except PathOutsideError as error:
        raise GenerationError(
            f"{pointer} is a link that leads out of its folder.", _remedy(folder)
        ) from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise GenerationError(f"{pointer} cannot be read: {why}.", _remedy(folder)) from error
    number = _NUMBER.fullmatch(content)
    if number is None:
        shown = repr(content[:20]).removeprefix("b")
        raise GenerationError(f"{pointer} holds {shown}, not the number of a generation.", _remedy(folder))
    name = number[1].decode()
    try:
        site = Path(os.path.realpath(resolve_inside(folder, name, SITE)))
    except PathOutsideError as error:
        raise GenerationError(
            f"{folder / name / SITE} is a link that leads out of {folder}.", _remedy(folder)
        ) from error
    if not site.is_dir():
        raise GenerationError(
            f"{pointer} names generation {name}, and {folder / name / SITE} is not a folder.", _remedy(folder)
        )
    if not os.access(site, os.R_OK | os.X_OK):
        raise GenerationError(f"{site} cannot be read by this user.", _remedy(folder))
    return site


def _read(pointer: str) -> bytes | None:
    """How the pointer begins; None when there is none."""
    try:
        # Not blocking: whoever opens a named pipe waits for a writer.
        descriptor = os.open(pointer, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        if os.path.islink(pointer):
            raise
        return None
    try:
        return os.read(descriptor, _READ)
    finally:
        os.close(descriptor)


def _remedy(folder: Path) -> str:
    """What to do, with the generations that there are."""
    try:
        names = [name for name in os.listdir(folder) if re.fullmatch(r"[1-9][0-9]{0,8}", name)]
        there = [name for name in sorted(names, key=int) if (folder / name / SITE).is_dir()]
    except (OSError, ValueError):
        there = []
    delete = f"elete {folder / POINTER} to start without packages"
    if not there:
        return f"D{delete}; `comfyk doctor` says what else is wrong."
    return f"Write the number of another generation ({', '.join(there[-5:])}) into it, or d{delete}."


def user_folder(toml: Path | None, overrides: Mapping[str, Any]) -> Path | None:
    """The user folder, which must be known before the plugins are there; None when the settings of it are wrong.

    Raises SettingsError when they cannot be read at all.
    """
    values = Layers.read(Settings, toml, overrides).merged("folders")
    try:
        given = FolderSettings.model_validate(
            {name: values[name] for name in ("base", "user") if name in values}
        )
    except ValidationError:
        return None  # all that is wrong is said when the settings are loaded
    return Folders(given.base, user=given.user).user
