"""`object_info`: what clients are told of all nodes, kept ready as JSON.

Each node's entry is kept as bytes. Asking again costs only what may have changed: nothing for static nodes, a
look at the file lists of those that have some, and a call of INPUT_TYPES for V1 nodes. That is code of the nodes'
authors: it is called outside of any lock, and a node that does not return is shown as it was, or left out.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic_core import from_json

from comfyk.foreign_code import FOREIGN, is_ours
from comfyk.nodes.definition import NodeDef
from comfyk.nodes.registry import NodeRegistry
from comfyk.wire import dumps_anything

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PATIENCE_S = 3.0
"""How long a node may take to say what it is."""


@dataclass(slots=True)
class _Entry:
    definition: NodeDef
    key: bytes
    inputs: bytes | None = None
    """The schema as it was when `entry` was written, to tell whether it has changed."""
    entry: bytes | None = None
    """None while the node cannot say what it is."""
    failed: bool = False
    asking: threading.Lock = field(default_factory=threading.Lock)
    """Held by the thread that asks it what it is."""
    asked_at: float = 0.0
    """Since when, or when it was asked last."""
    told: bool = False
    """The log says that it does not answer."""


class ObjectInfo:
    """The `object_info` document of a registry. Safe to use from several threads."""

    def __init__(self, registry: NodeRegistry, *, patience_s: float = _PATIENCE_S):
        self._registry = registry
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._revision: int | None = None
        self._entries: dict[str, _Entry] = {}
        self._changing: list[_Entry] = []
        """Those that may say something else each time."""
        self._unknown: list[_Entry] = []
        """Those of the others that have not said what they are."""
        self._document: tuple[bytes, str] | None = None

    async def document(self) -> tuple[bytes, str]:
        """What `all` returns, in a thread, and however long some nodes take to say what they are."""
        return await self._in_time(self.all)

    async def entry(self, name: str) -> dict[str, Any] | None:
        """What `one` returns, likewise."""
        return await self._in_time(lambda: self.one(name))

    async def _in_time(self, work: Callable[[], T]) -> T:
        while True:
            try:
                async with asyncio.timeout(self._patience_s * 1.1):
                    return await FOREIGN.run(work)
            except TimeoutError:
                pass  # it is stuck at a node, which is passed over the next time

    def all(self) -> tuple[bytes, str]:
        """The JSON of all entries, `{name: entry}`, and its strong ETag, quotes included.

        A node that cannot say what it is gets logged once and is left out. It blocks as long as authors' code does.
        """
        with self._lock:
            self._follow_registry()
            self._unknown = [one for one in self._unknown if one.entry is None]
            asked = [*self._changing, *self._unknown]
        for entry in asked:
            self._refresh(entry)
        with self._lock:
            if self._document is None:
                parts = [one.key + one.entry for one in self._entries.values() if one.entry is not None]
                body = b"{" + b",".join(parts) + b"}"
                digest = hashlib.blake2b(body, digest_size=16).hexdigest()
                self._document = body, f'"{digest}"'
            return self._document

    def one(self, name: str) -> dict[str, Any] | None:
        """The entry of one node, in plain JSON values; None if there is none or it cannot say what it is."""
        with self._lock:
            self._follow_registry()
            entry = self._entries.get(name)
        if entry is None:
            return None
        if entry.entry is None or not entry.definition.is_static:
            self._refresh(entry)
        written = entry.entry
        return None if written is None else from_json(written)

    def _follow_registry(self) -> None:
        revision = self._registry.revision
        if revision == self._revision:
            return
        before = self._entries
        self._entries = {}
        for definition in self._registry:
            known = before.get(definition.name)
            if known is None or known.definition is not definition:
                known = _Entry(definition, encode(definition.name) + b":")
            self._entries[definition.name] = known
        entries = self._entries.values()
        self._changing = [one for one in entries if not one.definition.is_static]
        self._unknown = [one for one in entries if one.definition.is_static and one.entry is None]
        self._document = None
        self._revision = revision

    def _refresh(self, entry: _Entry) -> None:
        """Ask a node what it is, unless somebody does so in vain."""
        if not entry.asking.acquire(blocking=False):
            left = entry.asked_at + self._patience_s - time.monotonic()
            if not entry.asking.acquire(timeout=max(left, 0.05)):
                self._tell(entry)
                return
        definition = entry.definition
        entry.asked_at = time.monotonic()
        try:
            types = definition.input_types()
            inputs = encode(types)
            if inputs != entry.inputs or entry.failed:
                self._take(entry, inputs, encode(definition.info(types)))
        except BaseException as error:
            if is_ours(error):
                raise
            if not entry.failed:
                logger.exception("node %s is left out of object_info", definition.name)
                self._take(entry, None, None)
        finally:
            entry.told = False
            entry.asking.release()

    def _take(self, entry: _Entry, inputs: bytes | None, written: bytes | None) -> None:
        with self._lock:
            entry.inputs, entry.entry, entry.failed = inputs, written, written is None
            self._document = None

    def _tell(self, entry: _Entry) -> None:
        if not entry.told:
            entry.told = True
            how = "left out of object_info" if entry.entry is None else "shown in object_info as it was"
            logger.error("node %s is %s: its schema does not return", entry.definition.name, how)


def encode(value: Any) -> bytes:
    """JSON of whatever an author put into a schema. A file name that is not UTF-8 is carried by escapes."""
    return dumps_anything(value, surrogates="escape")
