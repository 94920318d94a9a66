"""The file that the web UI saves: nodes, links and definitions of subgraphs, in any of its versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NEVER = 2
BYPASS = 4
"""Modes of a node: it does not run; it hands on what comes in."""
INPUT_NODE = -10
OUTPUT_NODE = -20
"""Where links of a subgraph begin and end that lead outside."""


class WorkflowError(Exception):
    """There is no workflow that can be run; the message says what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Link:
    origin: str
    origin_slot: int
    target: str
    target_slot: int


@dataclass(slots=True)
class Node:
    """A node as it was saved."""

    id: str
    type: str
    mode: int
    title: str | None
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    values: list[Any] | dict[str, Any]
    """`widgets_values`: in the order of the node's widgets, or by name."""
    named: dict[str, Any]
    """`widgets_values_named`, which newer versions write beside them."""
    properties: dict[str, Any]


@dataclass(slots=True)
class Graph:
    """The workflow itself, or a subgraph of it."""

    name: str
    nodes: dict[str, Node]
    links: dict[Any, Link]
    inputs: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[dict[str, Any]] = field(default_factory=list)
    """The slots of a subgraph."""


@dataclass(slots=True)
class Document:
    root: Graph
    subgraphs: dict[str, Graph]
    """By id, which is the type of the nodes that stand for them."""


def is_ui_workflow(data: Any) -> bool:
    """Whether this is what the web UI saves, as against a prompt."""
    return isinstance(data, Mapping) and isinstance(data.get("nodes"), list)


def is_bare_prompt(data: Any) -> bool:
    """Whether this is a prompt as File > Export (API) writes it, not wrapped: ids and nodes, nothing else."""
    return (
        isinstance(data, Mapping)
        and bool(data)
        and all(
            isinstance(node, Mapping) and isinstance(node.get("class_type"), str) for node in data.values()
        )
    )


def read_document(data: Any) -> Document:
    """Raises WorkflowError that names what is not as it should be."""
    if not is_ui_workflow(data):
        raise WorkflowError("this is no workflow of the web UI: it has no list of nodes")
    definitions = data.get("definitions")
    listed = definitions.get("subgraphs") if isinstance(definitions, Mapping) else None
    subgraphs: dict[str, Graph] = {}
    for one in listed if isinstance(listed, list) else ():
        if not isinstance(one, Mapping) or not isinstance(one.get("id"), str):
            raise WorkflowError("a subgraph of the workflow has no id")
        subgraphs[one["id"]] = _graph(one, f"subgraph {one.get('name') or one['id']!r}")
    return Document(_graph(data, "the workflow"), subgraphs)


def _graph(data: Mapping[str, Any], name: str) -> Graph:
    nodes = data.get("nodes")
    if not isinstance(nodes, list):
        raise WorkflowError(f"{name} has no list of nodes")
    graph = Graph(name, {}, {}, _dicts(data.get("inputs")), _dicts(data.get("outputs")))
    for node in nodes:
        if not isinstance(node, Mapping) or not isinstance(node.get("type"), str) or "id" not in node:
            raise WorkflowError(f"{name} has a node without an id or a type")
        read = _node(node)
        graph.nodes[read.id] = read
    links = data.get("links")
    for link in links.values() if isinstance(links, Mapping) else links if isinstance(links, list) else ():
        if link is None:
            continue
        try:
            if isinstance(link, Mapping):
                link = [link[key] for key in ("id", "origin_id", "origin_slot", "target_id", "target_slot")]
            id, origin, origin_slot, target, target_slot = link[:5]
            graph.links[id] = Link(str(origin), int(origin_slot), str(target), int(target_slot))
        except (KeyError, TypeError, ValueError) as error:
            raise WorkflowError(f"{name} has a link that is none: {str(link)[:200]}") from error
    return graph


def _node(node: Mapping[str, Any]) -> Node:
    values = node.get("widgets_values")
    mode = node.get("mode")
    title = node.get("title")
    return Node(
        id=str(node["id"]),
        type=node["type"],
        mode=mode if isinstance(mode, int) else 0,
        title=title if isinstance(title, str) else None,
        inputs=_dicts(node.get("inputs")),
        outputs=_dicts(node.get("outputs")),
        values=values if isinstance(values, list | dict) else [],
        named=_dict(node.get("widgets_values_named")),
        properties=_dict(node.get("properties")),
    )


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one if isinstance(one, dict) else {} for one in value] if isinstance(value, list) else []


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
