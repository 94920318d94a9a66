"""Users: who there is, and the folder of each. A convenience to keep things apart, no protection.

The layout is ComfyUI's, so that a `user` folder can be taken over: `users.json` with names by id, and a folder per
id. Names that begin with two underscores belong to the system and are never anybody's.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import uuid
from pathlib import Path

from comfyk.atomic import write_file
from comfyk.folders import PathOutsideError, resolve_inside

log = logging.getLogger(__name__)

DEFAULT = "default"
SYSTEM_PREFIX = "__"
_LONGEST_NAME = 100


class UserError(ValueError):
    """The name cannot be a user's; the message says why."""


class UnknownUserError(LookupError):
    """There is no such user."""


class Users:
    """The users of one server. Methods read and write files and may block."""

    def __init__(self, root: Path, *, multi_user: bool) -> None:
        """`root` holds the folders. Without `multi_user` there is one user only, `default`."""
        self.multi_user = multi_user
        self._root = root
        self._file = root / "users.json"
        self._lock = threading.Lock()

    def names(self) -> dict[str, str]:
        """Names by id."""
        if not self.multi_user:
            return {DEFAULT: DEFAULT}
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            log.error("%s cannot be read, so there are no users: %s", self._file, error)
            return {}
        if not isinstance(found, dict):
            return {}
        return {id: str(name) for id, name in found.items() if not id.startswith(SYSTEM_PREFIX)}

    def folder(self, user: str) -> Path:
        """The folder of a user; it need not exist yet. Raises UnknownUserError."""
        if user not in self.names():
            raise UnknownUserError(f"there is no user {user!r}")
        try:
            folder = resolve_inside(self._root, user)
        except PathOutsideError:
            raise UnknownUserError(f"there is no user {user!r}") from None
        if folder.parent != self._root:
            raise UnknownUserError(f"there is no user {user!r}")
        return folder

    def add(self, name: str) -> str:
        """Make a user; returns the id. Raises UserError, and OSError when it cannot be kept."""
        name = name.strip()
        if not name or not name.isprintable():
            raise UserError("a user name has to be given")
        if len(name) > _LONGEST_NAME:
            raise UserError(f"a user name has at most {_LONGEST_NAME} characters")
        plain = re.sub(r"[^a-zA-Z0-9_-]+", "-", name)
        if name.startswith(SYSTEM_PREFIX) or plain.startswith(SYSTEM_PREFIX):
            raise UserError(f"names that begin with {SYSTEM_PREFIX!r} are the system's")
        with self._lock:
            names = self.names()
            if name in names.values():
                raise UserError("Duplicate username.")
            id = f"{plain}_{uuid.uuid4()}"
            write_file(self._file, json.dumps({**names, id: name}).encode())
        return id
