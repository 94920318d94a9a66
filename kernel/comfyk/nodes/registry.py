"""All nodes that this server knows, by name, and what became of those that have been renamed."""

from __future__ import annotations

import difflib
import logging
import threading
from collections.abc import Iterator, MutableMapping
from typing import Any

from comfyk.io.node import ComfyNode, NodeDefinitionError, NodeReplace
from comfyk.nodes.definition import NodeDef
from comfyk.nodes.links import is_link
from comfyk.nodes.typed import TypedNodeDef
from comfyk.nodes.v1 import V1NodeDef

logger = logging.getLogger(__name__)


class UnknownNode(KeyError):
    """No node of this name is registered."""

    def __init__(self, name: str, similar: list[str]):
        super().__init__(name)
        self.name = name
        self.similar = similar

    def __str__(self) -> str:
        hint = (
            f"; did you mean {' or '.join(self.similar)}?" if self.similar else "; a node pack may be missing"
        )
        return f"there is no node {self.name!r}{hint}"


class NodeRegistry:
    """Node definitions by name, in the order in which their names first came.

    A name can be registered again: the last one wins, and the one before comes back when the source of the
    last is removed. `revision` grows with every change.

    It may be changed and read in any threads: what is in the dicts is replaced, never changed, and readers go through
    copies, which are made in one step.
    """

    def __init__(self) -> None:
        self.revision = 0
        self._nodes: dict[str, tuple[tuple[NodeDef, str], ...]] = {}
        self._replacements: dict[str, tuple[tuple[NodeReplace, str | None], ...]] = {}
        self._changing = threading.Lock()

    def add(
        self,
        node: type | NodeDef,
        *,
        name: str | None = None,
        display_name: str | None = None,
        python_module: str | None = None,
        source: str | None = None,
    ) -> NodeDef:
        """Register a node class, typed or V1.

        `name` is the schema's id if not given, or the class's name. `python_module` is where clients are told
        that it comes from (default: the class's RELATIVE_PYTHON_MODULE, or "nodes"). `source` is whose it is,
        for `remove_source` (default: `python_module`). Raises NodeDefinitionError when the class cannot work.
        """
        definition = define(node, name=name, display_name=display_name, python_module=python_module)
        source = source or definition.python_module
        with self._changing:
            stack = self._nodes.get(definition.name, ())
            if stack and stack[-1][0].cls is not definition.cls:
                logger.warning(
                    "node %s from %s replaces the one from %s", definition.name, source, stack[-1][1]
                )
            others = (entry for entry in stack if entry[1] != source)
            self._nodes[definition.name] = (*others, (definition, source))
            self.revision += 1
        return definition

    def remove(self, name: str) -> None:
        """Take a node out, whatever its source. Raises UnknownNode."""
        with self._changing:
            if self._nodes.pop(name, None) is None:
                raise self._unknown(name)
            self.revision += 1

    def remove_source(self, source: str) -> list[str]:
        """Take out everything that this source registered. Returns the names of its nodes."""
        with self._changing:
            removed = _without(self._nodes, source)
            _without(self._replacements, source)
            self.revision += 1
        return removed

    def get(self, name: str) -> NodeDef | None:
        stack = self._nodes.get(name)
        return stack[-1][0] if stack else None

    def source(self, name: str) -> str:
        """Whose node this is. Raises UnknownNode."""
        stack = self._nodes.get(name)
        if not stack:
            raise self._unknown(name)
        return stack[-1][1]

    def __getitem__(self, name: str) -> NodeDef:
        """Raises UnknownNode, a KeyError that suggests similar names."""
        stack = self._nodes.get(name)
        if not stack:
            raise self._unknown(name)
        return stack[-1][0]

    def __contains__(self, name: object) -> bool:
        return name in self._nodes

    def __iter__(self) -> Iterator[NodeDef]:
        """The definitions; `names()` gives the names."""
        return iter([stack[-1][0] for stack in list(self._nodes.values())])

    def __len__(self) -> int:
        return len(self._nodes)

    def names(self, source: str | None = None) -> list[str]:
        """The names of all nodes, or of those that this source has registered."""
        if source is None:
            return list(self._nodes)
        stacks = self._nodes.copy().items()
        return [name for name, stack in stacks if any(entry[1] == source for entry in stack)]

    def _unknown(self, name: str) -> UnknownNode:
        return UnknownNode(name, difflib.get_close_matches(str(name), list(self._nodes), n=3))

    @property
    def class_mappings(self) -> ClassMappings:
        """The registry as packs know it: a dict of classes by name. Writing to it registers."""
        return ClassMappings(self)

    @property
    def replacements(self) -> dict[str, list[NodeReplace]]:
        """What stands in for nodes that are gone: old name -> candidates, first choice first."""
        return {old: [one for one, _ in entries] for old, entries in self._replacements.copy().items()}

    def add_replacement(self, replacement: NodeReplace, *, source: str | None = None) -> None:
        """Say what stands in for a node that is gone. The same pair of names again changes nothing."""
        with self._changing:
            entries = self._replacements.get(replacement.old_node_id, ())
            if all(one.new_node_id != replacement.new_node_id for one, _ in entries):
                self._replacements[replacement.old_node_id] = (*entries, (replacement, source))
                self.revision += 1

    def apply_replacements(self, prompt: dict[str, Any]) -> list[str]:
        """Rewrite a prompt in place: nodes that are not registered become what stands in for them.

        The inputs and the links from their outputs are mapped; a node whose candidates are all unknown too is
        left as it is. Parts that are no nodes are left alone: validation reports them. Returns the node ids.
        """
        if not self._replacements:
            return []
        replaced: dict[str, NodeReplace] = {}
        for node_id, node in prompt.items():
            if _is_node(node) and node["class_type"] not in self:
                replacement = self._replacement(node["class_type"])
                if replacement is not None:
                    replaced[node_id] = replacement
        for node_id, replacement in replaced.items():
            node = prompt[node_id]
            inputs = _mapped_inputs(node["inputs"], replacement)
            prompt[node_id] = {**node, "class_type": replacement.new_node_id, "inputs": inputs}
        slots = {
            node_id: {one["old_idx"]: one["new_idx"] for one in replacement.output_mapping or ()}
            for node_id, replacement in replaced.items()
        }
        for node in prompt.values() if replaced else ():
            if not _is_node(node):
                continue
            for name, value in node["inputs"].items():
                if is_link(value) and value[1] in slots.get(value[0], ()):
                    node["inputs"][name] = [value[0], slots[value[0]][value[1]]]
        return list(replaced)

    def _replacement(self, old: Any) -> NodeReplace | None:
        entries = self._replacements.get(old, ()) if isinstance(old, str) else ()
        return next((one for one, _ in entries if one.new_node_id in self), None)


class ClassMappings(MutableMapping[str, type]):
    """A registry as a dict of node classes."""

    def __init__(self, registry: NodeRegistry):
        self._registry = registry

    def __getitem__(self, name: str) -> type:
        return self._registry[name].cls

    def __setitem__(self, name: str, cls: type) -> None:
        self._registry.add(cls, name=name)

    def __delitem__(self, name: str) -> None:
        self._registry.remove(name)

    def __contains__(self, name: object) -> bool:
        return name in self._registry

    def __iter__(self) -> Iterator[str]:
        return iter(self._registry.names())

    def __len__(self) -> int:
        return len(self._registry)


def define(
    node: type | NodeDef,
    *,
    name: str | None = None,
    display_name: str | None = None,
    python_module: str | None = None,
) -> NodeDef:
    """The definition of a node class, typed or V1. A definition is returned as it is."""
    if isinstance(node, NodeDef):
        return node
    if name is not None and (not isinstance(name, str) or not name):
        raise NodeDefinitionError(f"{node.__name__}: {name!r} is no name for a node; give it a string")
    if issubclass(node, ComfyNode):
        return TypedNodeDef(node, name=name, display_name=display_name, python_module=python_module)
    return V1NodeDef(node, name=name, display_name=display_name, python_module=python_module)


def _without(entries: dict[str, Any], source: str) -> list[str]:
    """Take out what is of this source. Returns the names that something was taken from."""
    changed = []
    for name, stack in list(entries.items()):
        kept = tuple(entry for entry in stack if entry[1] != source)
        if len(kept) == len(stack):
            continue
        changed.append(name)
        if kept:
            entries[name] = kept
        else:
            del entries[name]
    return changed


def _is_node(node: Any) -> bool:
    return isinstance(node, dict) and "class_type" in node and isinstance(node.get("inputs"), dict)


def _mapped_inputs(inputs: dict[str, Any], replacement: NodeReplace) -> dict[str, Any]:
    mapped: dict[str, Any] = {}
    for one in replacement.input_mapping or ():
        if "set_value" in one:
            mapped[one["new_id"]] = one["set_value"]
        elif "old_id" in one and one["old_id"] in inputs:
            mapped[one["new_id"]] = inputs[one["old_id"]]
    return mapped
