"""Users: who there is, and the folder of each. It keeps things apart; only tokens that belong to users protect them.

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
        self._read_at: tuple[int, int, int] | None = None
        self._names: dict[str, str] = {}

    def names(self) -> dict[str, str]:
        """Names by id."""
        return {DEFAULT: DEFAULT} if not self.multi_user else dict(self._read())

    def knows(self, user: str) -> bool:
        """Whether there is such a user. Quick: the file is read when it has changed."""
        return user == DEFAULT if not self.multi_user else user in self._read()

    def _read(self) -> dict[str, str]:
        try:
            stat = self._file.stat()
            state = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if state != self._read_at:
                found = json.loads(self._file.read_text(encoding="utf-8"))
                names = found if isinstance(found, dict) else {}
                self._names = {
                    id: str(name) for id, name in names.items() if not id.startswith(SYSTEM_PREFIX)
                }
                self._read_at = state
        except FileNotFoundError:
            self._names, self._read_at = {}, None
        except (OSError, ValueError) as error:
            log.error("%s cannot be read, so there are no users: %s", self._file, error)
            self._names, self._read_at = {}, None
        return self._names

    def folder(self, user: str) -> Path:
        """The folder of a user; it need not exist yet. Raises UnknownUserError."""
        if not self.knows(user):
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
