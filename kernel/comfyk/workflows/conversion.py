"""A workflow of the web UI as a prompt, as the UI's own export makes it.

Nodes inside of a subgraph have the ids of those that stand for it before their own: `12:3`. Nodes that do not run are
left out; those that are bypassed hand on the input that fits; reroutes, primitives and notes are the UI's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from comfyk.workflows.document import (
    BYPASS,
    INPUT_NODE,
    NEVER,
    OUTPUT_NODE,
    Document,
    Graph,
    Node,
    WorkflowError,
    read_document,
)
from comfyk.workflows.texts import choose, fill_in
from comfyk.workflows.widgets import MISSING, Inputs, is_dynamic_text, widget_values

if TYPE_CHECKING:
    from comfyk.nodes.registry import NodeRegistry

Schemas = Callable[[str], Inputs | None]
"""The inputs of a node by its class, or None for one that is not there."""

_REROUTE = "Reroute"
_PRIMITIVE = "PrimitiveNode"
_CUSTOM_COMBO = "CustomCombo"
_NOTES = ("Note", "MarkdownNote")
UI_NODES = frozenset({_REROUTE, _PRIMITIVE, *_NOTES})
"""Nodes that the UI has of its own: no prompt holds one, unless somebody registers a node of that name."""
_MAX_DEPTH = 100
"""Subgraphs inside of each other."""


@dataclass(slots=True)
class _Place:
    """A graph where it is used: the workflow itself, or the subgraph that the node `host` of `outer` stands for."""

    graph: Graph
    path: str = ""
    """What the ids of its nodes begin with."""
    outer: _Place | None = None
    host: Node | None = None


@dataclass(slots=True)
class _Constant:
    value: Any


def schemas_of(nodes: NodeRegistry) -> Schemas:
    """The inputs of the nodes that are registered, each asked for once."""

    @cache
    def inputs(name: str) -> Inputs | None:
        definition = nodes.get(name)
        return None if definition is None else definition.input_types()

    return inputs


def to_prompt(workflow: Any, schemas: Schemas) -> dict[str, Any]:
    """The prompt `{id: {"class_type", "inputs", "_meta"}}` of a workflow. Raises WorkflowError.

    Values stand as they were saved: whether they can be is for the validation of the prompt. A node that nobody knows
    is in it, too, so that the validation names it, unless it is connected to nothing: notes and panels that packs add
    to the UI.
    """
    return _Conversion(read_document(workflow), schemas).prompt()


class _Conversion:
    def __init__(self, document: Document, schemas: Schemas) -> None:
        self._document = document
        self._schemas = schemas
        self._places: dict[str, _Place] = {}
        """Places inside of subgraphs, by path."""

    def prompt(self) -> dict[str, Any]:
        nodes = list(self._running(_Place(self._document.root)))
        widgets = {place.path + node.id: self._widgets(node) for place, node in nodes}
        now = datetime.now().astimezone()

        def value_of(name: str, widget: str) -> object | None:
            for place, node in nodes:
                if name in (node.properties.get("Node name for S&R"), node.title, node.type):
                    return widgets[place.path + node.id].get(widget)
            return None

        prompt: dict[str, Any] = {}
        for place, node in nodes:
            id = place.path + node.id
            inputs = {name: self._sent(node, name, value) for name, value in widgets[id].items()}
            for slot, input in enumerate(node.inputs):
                source = self._input(place, node, slot)
                if isinstance(source, _Constant):
                    inputs[input["name"]] = _wrapped(source.value)
                elif source is not None:
                    inputs[input["name"]] = list(source)
            if isinstance(prefix := inputs.get("filename_prefix"), str):
                inputs["filename_prefix"] = fill_in(prefix, value_of, now)
            prompt[id] = {"class_type": node.type, "inputs": inputs}
            if node.title:
                prompt[id]["_meta"] = {"title": node.title}
        return prompt

    def _running(self, place: _Place, depth: int = 0) -> Iterator[tuple[_Place, Node]]:
        """The nodes that run, with where they stand."""
        if depth > _MAX_DEPTH:
            raise WorkflowError(f"{place.graph.name} holds itself, or more subgraphs than can be run")
        for node in place.graph.nodes.values():
            if node.mode in (NEVER, BYPASS):
                continue
            if node.type in self._document.subgraphs:
                yield from self._running(self._inside(place, node), depth + 1)
            elif node.type.startswith(("workflow/", "workflow>")):
                raise WorkflowError(
                    f"node {place.path}{node.id} is a group node, {node.type!r}, which has no schema; open the "
                    "workflow in the web UI, convert it to a subgraph, and save it again"
                )
            elif not self._is_of_the_ui(place, node):
                yield place, node

    def _is_of_the_ui(self, place: _Place, node: Node) -> bool:
        if self._schemas(node.type) is not None:
            return False
        if node.type in UI_NODES:
            return True
        linked = any(input.get("link") in place.graph.links for input in node.inputs)
        return not linked and all(link.origin != node.id for link in place.graph.links.values())

    def _inside(self, place: _Place, host: Node) -> _Place:
        path = f"{place.path}{host.id}:"
        if path not in self._places:
            graph = self._document.subgraphs[host.type]
            self._places[path] = _Place(graph, path, place, host)
        return self._places[path]

    def _widgets(self, node: Node) -> dict[str, Any]:
        marked = _marked(node)
        schema = self._schemas(node.type)
        if schema is None:
            values = (
                node.values if isinstance(node.values, dict) else dict(zip(marked, node.values, strict=False))
            )
            return values | {name: value for name, value in node.named.items() if name in marked}
        found = widget_values(schema, node.values, node.named, marked)
        if node.type == _CUSTOM_COMBO and isinstance(node.values, list):
            # The UI makes the rest of its widgets: which choice it is, and all that there are.
            names = ["index", *(f"option{number}" for number in range(1, len(node.values) - 1))]
            found |= dict(zip(names, node.values[1:], strict=True))
        return found

    def _sent(self, node: Node, name: str, value: Any) -> Any:
        schema = self._schemas(node.type)
        if isinstance(value, str) and schema is not None and is_dynamic_text(schema, name):
            return choose(value)
        return _wrapped(value)

    # What comes in -------------------------------------------------------------------------------------------------

    def _input(self, place: _Place, node: Node, slot: int) -> tuple[str, int] | _Constant | None:
        """Where an input's value comes from: the output of a node that runs, a constant, or nowhere.

        One step a turn: chains of bypassed nodes and reroutes may be long, and may go in a circle.
        """
        wanted = node.inputs[slot].get("type")
        seen: set[tuple[str, str, int]] = set()
        while True:
            if (key := (place.path, node.id, slot)) in seen:
                raise WorkflowError(f"node {place.path}{node.id} hands on what it gets from itself")
            seen.add(key)
            link = place.graph.links.get(node.inputs[slot].get("link")) if slot < len(node.inputs) else None
            if link is None:
                return None
            if link.origin == str(INPUT_NODE):
                host, outer = place.host, place.outer
                if host is None or outer is None:
                    return None
                slot_outside = _slot_of_host(place.graph, host, link.origin_slot)
                if slot_outside is None or host.inputs[slot_outside].get("link") not in outer.graph.links:
                    value = self._promoted(place.graph, host, link.origin_slot)
                    return None if value is MISSING else _Constant(value)
                place, node, slot = outer, host, slot_outside
                continue
            # Down into subgraphs, to the node whose output it is.
            origin, out = place.graph.nodes.get(link.origin), link.origin_slot
            while origin is not None and origin.mode == 0 and origin.type in self._document.subgraphs:
                place = self._inside(place, origin)
                if place.path.count(":") > _MAX_DEPTH:
                    raise WorkflowError(f"{place.graph.name} holds itself")
                inner = _link_to_output(place.graph, out)
                if inner is None:
                    return None
                if inner.origin == str(INPUT_NODE):  # straight through
                    break
                origin, out = place.graph.nodes.get(inner.origin), inner.origin_slot
            else:
                inner = None
            if inner is not None:
                assert place.host is not None
                assert place.outer is not None
                through = _slot_of_host(place.graph, place.host, inner.origin_slot)
                if through is None:
                    return None
                node, slot, place = place.host, through, place.outer
                continue
            if origin is None or origin.mode == NEVER:
                return None
            if origin.mode == BYPASS:
                through = _bypass(origin, out, wanted)
                if through is None:
                    return None
                node, slot = origin, through
                continue
            if self._schemas(origin.type) is None:
                if origin.type == _REROUTE:
                    node, slot = origin, 0
                    continue
                if origin.type == _PRIMITIVE:
                    values = (
                        origin.values if isinstance(origin.values, list) else list(origin.values.values())
                    )
                    return _Constant(values[0]) if values else None
                if origin.type in _NOTES:
                    return None
            return place.path + origin.id, out

    # Promoted widgets ----------------------------------------------------------------------------------------------

    def _promoted(self, graph: Graph, host: Node, slot: int) -> Any:
        """The value of the widget that the node `host` shows for an input of the subgraph it stands for, or MISSING."""
        name = graph.inputs[slot].get("name") if slot < len(graph.inputs) else None
        if name in host.named:
            return host.named[name]
        if isinstance(host.values, dict):
            if name in host.values:
                return host.values[name]
        elif host.values and not host.properties.get("proxyWidgets"):
            shown = [one for one in range(len(graph.inputs)) if self._first_widget(graph, one) is not None]
            if slot in shown and (index := shown.index(slot)) < len(host.values):
                return host.values[index]
        first = self._first_widget(graph, slot)
        if first is None:
            return MISSING
        node, target = first
        if node.type in self._document.subgraphs:
            inner = self._document.subgraphs[node.type]
            inner_slot = _slot_inside(inner, node, target)
            return MISSING if inner_slot is None else self._promoted(inner, node, inner_slot)
        return self._widgets(node).get(node.inputs[target]["name"], MISSING)

    def _first_widget(self, graph: Graph, slot: int, depth: int = 0) -> tuple[Node, int] | None:
        """The first node inside, and its input, that has a widget for this input of a subgraph."""
        for link in graph.links.values():
            if link.origin != str(INPUT_NODE) or link.origin_slot != slot:
                continue
            node = graph.nodes.get(link.target)
            if node is None or link.target_slot >= len(node.inputs) or depth > _MAX_DEPTH:
                continue
            input = node.inputs[link.target_slot]
            if node.type in self._document.subgraphs:
                inner = self._document.subgraphs[node.type]
                inner_slot = _slot_inside(inner, node, link.target_slot)
                if inner_slot is not None and self._first_widget(inner, inner_slot, depth + 1) is not None:
                    return node, link.target_slot
            elif "widget" in input:
                schema = self._schemas(node.type)
                if schema is None or input["name"] in self._widgets(node):
                    return node, link.target_slot
        return None


def _marked(node: Node) -> list[str]:
    """The inputs that the workflow says have a widget."""
    return [input["name"] for input in node.inputs if "widget" in input and "name" in input]


def _wrapped(value: Any) -> Any:
    """A constant as a prompt has it, in which a list is a link."""
    return {"__value__": value} if isinstance(value, list) else value


def _slot_of_host(graph: Graph, host: Node, slot: int) -> int | None:
    """The input of the node that stands for a subgraph, for an input of the subgraph: by name."""
    if slot >= len(graph.inputs):
        return None
    name = graph.inputs[slot].get("name")
    return next((index for index, input in enumerate(host.inputs) if input.get("name") == name), None)


def _slot_inside(graph: Graph, host: Node, slot: int) -> int | None:
    """The other way round."""
    name = host.inputs[slot].get("name")
    return next((index for index, input in enumerate(graph.inputs) if input.get("name") == name), None)


def _link_to_output(graph: Graph, slot: int) -> Any:
    for link in graph.links.values():
        if link.target == str(OUTPUT_NODE) and link.target_slot == slot:
            return link
    return None


def _bypass(node: Node, slot: int, wanted: Any) -> int | None:
    """The input that a bypassed node hands on at an output: the one beside it if its type fits, else the first."""
    if not node.inputs:
        return None
    kind = node.outputs[slot].get("type") if slot < len(node.outputs) else wanted
    if "*" in (kind, wanted):
        return slot if slot < len(node.inputs) else 0
    if slot < len(node.inputs) and _fits(node.inputs[slot].get("type"), kind):
        return slot
    types = [input.get("type") for input in node.inputs]
    for index, type in enumerate(types):
        if type == wanted:
            return index
    return next((index for index, type in enumerate(types) if _fits(type, kind)), None)


def _fits(one: Any, other: Any) -> bool:
    """Whether a connection between these types is possible. `INT,FLOAT` is either."""
    if not isinstance(one, str) or not isinstance(other, str):
        return one == other
    if "*" in (one, other):
        return True
    return not set(one.upper().split(",")).isdisjoint(other.upper().split(","))
