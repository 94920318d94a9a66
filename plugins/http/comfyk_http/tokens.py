"""Tokens that let clients in. Only their hashes are kept, so that whoever reads the file cannot use them.

A token is 256 random bits: a plain hash is enough, since nobody can try so many.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from comfyk.atomic import write_file

log = logging.getLogger(__name__)

FILE = "__comfyk/tokens.json"
"""Below the user folder, where no request gets to."""
_PREFIX = "comfyk_"
_GLANCE = 0.5
"""Seconds for which `Tokens.holds` trusts what it saw."""


class TokenError(ValueError):
    """It cannot be done; the message says why."""


@dataclass(slots=True)
class Token:
    """What is kept of a token."""

    name: str
    hash: str
    created: float
    """Seconds since the epoch."""
    user: str | None = None
    """The id of the user to whom it belongs; None: it says nothing of users."""


class Tokens:
    """The tokens of one server. The file is read again when it changes, so that a command takes effect at once."""

    def __init__(self, user_folder: Path) -> None:
        self._file = user_folder / FILE
        self._lock = threading.Lock()
        self._read_at: tuple[int, int, int] | None = None
        self._tokens: list[Token] = []
        self._hashes: set[tuple[str, str | None]] = set()
        self._looked_at = float("-inf")

    def all(self) -> list[Token]:
        """Raises TokenError when the file is broken: then nobody gets in."""
        try:
            stat = self._file.stat()
            state = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if state != self._read_at:
                found = json.loads(self._file.read_text(encoding="utf-8"))
                self._tokens = [Token(**entry) for entry in found]
                self._read_at = state
        except FileNotFoundError:
            self._tokens, self._read_at = [], None
        except (OSError, ValueError, TypeError) as error:
            raise TokenError(f"{self._file} cannot be read: {error}") from error
        return list(self._tokens)

    def create(self, name: str, user: str | None = None) -> str:
        """Make a token, of a user or of nobody in particular. It is returned, and cannot be found out later.

        Raises TokenError and OSError.
        """
        if not name or not name.isprintable():
            raise TokenError("a token needs a name of printable characters")
        with self._lock:
            tokens = self.all()
            if any(token.name == name for token in tokens):
                raise TokenError(f"there is a token {name!r}; revoke it first, or choose another name")
            secret = _PREFIX + secrets.token_urlsafe(32)
            self._write([*tokens, Token(name, _hash(secret), time.time(), user)])
        return secret

    def revoke(self, name: str) -> None:
        """From now on this token lets nobody in. Raises TokenError when there is none of that name."""
        with self._lock:
            tokens = self.all()
            kept = [token for token in tokens if token.name != name]
            if len(kept) == len(tokens):
                names = ", ".join(repr(token.name) for token in tokens) or "none"
                raise TokenError(f"there is no token {name!r}; there are: {names}")
            self._write(kept)

    def _write(self, tokens: list[Token]) -> None:
        write_file(
            self._file, json.dumps([asdict(token) for token in tokens], indent=1).encode(), private=True
        )

    def find(self, secret: str) -> Token | None:
        """The token that this is. Takes as long whichever it is, or nearly is."""
        try:
            tokens = self.all()
        except TokenError as error:
            log.error("%s", error)
            return None
        digest = _hash(secret)
        found = None
        for token in tokens:
            if hmac.compare_digest(token.hash, digest):
                found = token
        return found

    def accepts(self, secret: str) -> bool:
        """Whether this is one of the tokens."""
        return self.find(secret) is not None

    def holds(self, token: Token) -> bool:
        """Whether a token that was accepted is still one. May be a second late, and costs nearly nothing."""
        now = time.monotonic()
        if now - self._looked_at > _GLANCE:
            self._looked_at = now
            try:
                self._hashes = {(one.hash, one.user) for one in self.all()}
            except TokenError as error:  # it was good until now
                log.error("%s", error)
        return (token.hash, token.user) in self._hashes


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
