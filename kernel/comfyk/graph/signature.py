"""Cache keys. Two nodes with the same key give the same results.

A key is a hash over the node's class, its constants, what `IS_CHANGED` / `fingerprint_inputs` said, and the keys
of the nodes it links to (a Merkle tree), so each is built once from what stands directly at the node.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from hashlib import blake2b
from typing import Any

from comfyk.graph.dynamic import DynamicPrompt
from comfyk.nodes.definition import NodeDef
from comfyk.nodes.links import is_link

Key = bytes

_unique = itertools.count()


class Uncacheable(Exception):
    """A value has no stable form: what depends on it is never taken from the cache."""


Fingerprint = Callable[[str, NodeDef, Mapping[str, Any]], Awaitable[Any]]
"""(node id, node, inputs) -> what the node's fingerprint method returns."""


class Signatures:
    """The keys of one running prompt."""

    def __init__(
        self, prompt: DynamicPrompt, definition: Callable[[str], NodeDef | None], fingerprint: Fingerprint
    ) -> None:
        self._prompt = prompt
        self._definition = definition
        self._fingerprint = fingerprint
        self._keys: dict[str, Key] = {}

    def __getitem__(self, node_id: str) -> Key:
        return self._keys[node_id]

    def get(self, node_id: str) -> Key | None:
        return self._keys.get(node_id)

    async def add(self, node_ids: Iterable[str]) -> None:
        """Build the keys of these nodes and of all they depend on."""
        opened: set[str] = set()
        for root in node_ids:
            stack = [root]
            while stack:
                node_id = stack[-1]
                if node_id in self._keys:
                    stack.pop()
                elif not self._prompt.has_node(node_id):
                    self._keys[node_id] = _unique_key()
                elif node_id in opened:
                    # What it links to is done; a link that is still open closes a cycle, which has no key.
                    self._keys[node_id] = await self._build(node_id)
                else:
                    opened.add(node_id)
                    for value in self._prompt.get_node(node_id)["inputs"].values():
                        if is_link(value) and value[0] not in self._keys and value[0] not in opened:
                            stack.append(value[0])

    async def _build(self, node_id: str) -> Key:
        node = self._prompt.get_node(node_id)
        definition = self._definition(node["class_type"])
        if definition is None:
            return _unique_key()
        inputs: dict[str, Any] = node["inputs"]
        parts = [node["class_type"]]
        if definition.not_idempotent or definition.wants_unique_id:
            parts.append(node_id)
        try:
            if definition.has("fingerprint"):
                parts.append(canonical(await self._fingerprint(node_id, definition, inputs)))
            for name in sorted(inputs):
                value = inputs[name]
                if is_link(value):
                    parts.append(f"{name!r}<{self._keys[value[0]].hex()}.{int(value[1])}")
                else:
                    parts.append(f"{name!r}={canonical(value)}")
        except (Uncacheable, KeyError):
            return _unique_key()
        return blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _unique_key() -> Key:
    return b"unique-%d" % next(_unique)


def canonical(value: Any) -> str:
    """A text that is the same for equal values and no others. Raises Uncacheable for NaN and unknown objects."""
    kind = type(value)
    if kind is str:
        return repr(value)
    if kind is int or kind is bool or value is None:
        return repr(value)
    if kind is float:
        if math.isnan(value):
            raise Uncacheable
        return repr(value)
    if isinstance(value, Mapping):
        items = sorted((canonical(key), canonical(item)) for key, item in value.items())
        return "{" + ",".join(f"{key}:{item}" for key, item in items) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, (set, frozenset)):
        return "<" + ",".join(sorted(map(canonical, value))) + ">"
    if isinstance(value, (bytes, str, int)):
        return repr(value)
    raise Uncacheable
