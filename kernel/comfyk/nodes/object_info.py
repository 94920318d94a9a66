"""`object_info`: what clients are told of all nodes, kept ready as JSON.

Each node's entry is kept as bytes. Asking again costs only what may have changed: nothing for static nodes, a
look at the file lists of those that have some, and a call of INPUT_TYPES for V1 nodes.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from comfyk.nodes.definition import NodeDef
from comfyk.nodes.registry import NodeRegistry
from comfyk.wire import dumps_anything

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Entry:
    definition: NodeDef
    key: bytes
    inputs: bytes | None = None
    """The schema as it was when `entry` was written, to tell whether it has changed."""
    entry: bytes | None = None
    """None while the node cannot say what it is."""
    failed: bool = False


class ObjectInfo:
    """The `object_info` document of a registry. Safe to use from several threads."""

    def __init__(self, registry: NodeRegistry):
        self._registry = registry
        self._lock = threading.Lock()
        self._revision: int | None = None
        self._entries: dict[str, _Entry] = {}
        self._changing: list[_Entry] = []
        self._document: tuple[bytes, str] | None = None

    def all(self) -> tuple[bytes, str]:
        """The JSON of all entries, `{name: entry}`, and its strong ETag, quotes included.

        A node that cannot say what it is gets logged once and is left out.
        """
        with self._lock:
            self._follow_registry()
            for entry in self._changing:
                self._refresh(entry)
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
            self._refresh(entry)
            return None if entry.entry is None else from_json(entry.entry)

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
                self._refresh(known)
            self._entries[definition.name] = known
        self._changing = [one for one in self._entries.values() if not one.definition.is_static or one.failed]
        self._document = None
        self._revision = revision

    def _refresh(self, entry: _Entry) -> None:
        definition = entry.definition
        if definition.is_static and entry.entry is not None:
            return
        try:
            types = definition.input_types()
            inputs = encode(types)
            if inputs == entry.inputs and not entry.failed:
                return
            written = encode(definition.info(types))
        except (Exception, SystemExit):
            if not entry.failed:
                logger.exception("node %s is left out of object_info", definition.name)
                entry.failed = True
                entry.inputs = entry.entry = None
                self._document = None
            return
        entry.inputs, entry.entry, entry.failed = inputs, written, False
        self._document = None


def encode(value: Any) -> bytes:
    """JSON of whatever an author put into a schema. A file name that is not UTF-8 is carried by escapes."""
    return dumps_anything(value, surrogates="escape")
