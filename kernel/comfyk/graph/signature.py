"""Cache keys. Two nodes with the same key give the same results.

A key is a hash over the node's class, its constants, what `IS_CHANGED` / `fingerprint_inputs` said, and the keys
of the nodes it links to (a Merkle tree), so each is built once from what stands directly at the node.

Of lazy inputs only those count that the node asks for. What it asks for follows from the rest, so it is kept, by the
key so far (`LazyChoices`). A node whose choice is not known yet has no key until it has run, nor have those below it:
no result of theirs can be at hand.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
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


class LazyChoices:
    """Which lazy inputs nodes have asked for, by the key of all that they had seen then; kept from job to job."""

    def __init__(self, size: int = 10_000) -> None:
        """`size` choices are kept, those used last."""
        self._size = size
        self._asked: dict[Key, tuple[str, ...]] = {}

    def get(self, key: Key) -> tuple[str, ...] | None:
        """The inputs that were asked for next, none if that was all; None when it is not known."""
        asked = self._asked.pop(key, None)
        if asked is not None:
            self._asked[key] = asked  # last in the dict: used last
        return asked

    def put(self, key: Key, asked: tuple[str, ...]) -> None:
        self._asked.pop(key, None)
        self._asked[key] = asked
        if len(self._asked) > self._size:
            del self._asked[next(iter(self._asked))]


class Signatures:
    """The keys of one running prompt."""

    def __init__(
        self,
        prompt: DynamicPrompt,
        definition: Callable[[str], NodeDef | None],
        fingerprint: Fingerprint,
        lazy_links: Callable[[str], Collection[str]] = lambda node_id: (),
        choices: LazyChoices | None = None,
    ) -> None:
        """`lazy_links` names the inputs of a node that link to another and that the node may ask for, or not."""
        self._prompt = prompt
        self._definition = definition
        self._fingerprint = fingerprint
        self._lazy_links = lazy_links
        self._choices = LazyChoices() if choices is None else choices
        self._keys: dict[str, Key | None] = {}
        """None: it is not known what the node, or one above it, will ask for."""
        self._so_far: dict[str, Key] = {}
        """Of nodes whose choice is not known: the key of what they have seen."""
        self._asked: dict[str, tuple[str, ...]] = {}
        """What they have asked for, and not seen yet."""

    def __getitem__(self, node_id: str) -> Key:
        """Raises KeyError for a node that has none (yet)."""
        key = self._keys[node_id]
        if key is None:
            raise KeyError(node_id)
        return key

    def get(self, node_id: str) -> Key | None:
        return self._keys.get(node_id)

    async def resolve(self, node_id: str) -> None:
        """Build the key of a node that had none, now that all it waits for is done."""
        if self._keys.get(node_id) is None and node_id not in self._so_far:
            self._keys[node_id] = await self._build(node_id)

    def asks(self, node_id: str, names: Iterable[str]) -> None:
        """A node that is running asks for lazy inputs."""
        if (key := self._seen(node_id)) is not None:
            inputs = self._prompt.get_node(node_id)["inputs"]
            self._asked[node_id] = asked = tuple(sorted(name for name in names if is_link(inputs.get(name))))
            self._choices.put(key, asked)

    def settle(self, node_id: str) -> None:
        """A node has run: it asked for all that it needed."""
        if (key := self._seen(node_id)) is not None:
            self._choices.put(key, ())
            self._keys[node_id] = key
            del self._so_far[node_id]

    def _seen(self, node_id: str) -> Key | None:
        """The key of what a node has seen, with what it asked for last; None for one whose key is known."""
        key = self._so_far.get(node_id)
        if key is not None and (asked := self._asked.pop(node_id, None)):
            inputs = self._prompt.get_node(node_id)["inputs"]
            key = self._so_far[node_id] = _with(
                key, asked, [(self[inputs[n][0]], inputs[n][1]) for n in asked]
            )
        return key

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

    async def _build(self, node_id: str) -> Key | None:
        node = self._prompt.get_node(node_id)
        definition = self._definition(node["class_type"])
        if definition is None:
            return _unique_key()
        inputs: dict[str, Any] = node["inputs"]
        lazy = self._lazy_links(node_id)
        for name, value in inputs.items():
            if name not in lazy and is_link(value) and self._keys.get(value[0], b"") is None:
                return None
        parts = [node["class_type"]]
        if definition.not_idempotent or definition.wants_unique_id:
            parts.append(node_id)
        try:
            if definition.has("fingerprint"):
                parts.append(canonical(await self._fingerprint(node_id, definition, inputs)))
            for name in sorted(inputs):
                value = inputs[name]
                if name in lazy:
                    parts.append(f"{name!r}~")
                elif is_link(value):
                    parts.append(f"{name!r}<{self[value[0]].hex()}.{int(value[1])}")
                else:
                    parts.append(f"{name!r}={canonical(value)}")
        except (Uncacheable, KeyError):
            return _unique_key()
        key = _hash("\0".join(parts).encode("utf-8", "surrogatepass"))
        return self._follow(node_id, key, inputs) if lazy else key

    def _follow(self, node_id: str, key: Key, inputs: Mapping[str, Any]) -> Key | None:
        """The key with all that the node will ask for; None when that is not known."""
        while asked := self._choices.get(key):
            sources = [(self._keys.get(inputs[name][0]), inputs[name][1]) for name in asked]
            known = [(source, slot) for source, slot in sources if source is not None]
            if len(known) < len(sources):
                break
            key = _with(key, asked, known)
        if asked == ():
            return key
        self._so_far[node_id] = key
        return None


def _with(key: Key, asked: Iterable[str], sources: Iterable[tuple[Key, float]]) -> Key:
    """A key with inputs that were asked for: their names, and the key and the output of each's source."""
    parts = [
        key.hex(),
        *(
            f"{name!r}<{source.hex()}.{int(slot)}"
            for name, (source, slot) in zip(asked, sources, strict=True)
        ),
    ]
    return _hash("\0".join(parts).encode("utf-8", "surrogatepass"))


def _hash(data: bytes) -> Key:
    return blake2b(data, digest_size=16).digest()


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
