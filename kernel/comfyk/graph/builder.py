"""Writing the subgraph that a node expands to.

def execute(cls, image, times):
    graph = GraphBuilder()
    for _ in range(times):
        image = graph.node("ImageInvert", image=image).out(0)
    return io.NodeOutput(image, expand=graph.finalize())
"""

from __future__ import annotations

from typing import Any

from comfyk.context import current_call
from comfyk.nodes.links import Link, Prompt, is_link


class GraphBuilder:
    """Collects nodes with ids that are unique in the job: `<node>.<call>.<graph>.<id>`."""

    def __init__(self, prefix: str | None = None) -> None:
        self.prefix = prefix if prefix is not None else self.alloc_prefix()
        self.nodes: dict[str, Node] = {}
        self._next_id = 1

    @staticmethod
    def alloc_prefix(
        root: str | None = None, call_index: int | None = None, graph_index: int | None = None
    ) -> str:
        """An unused prefix; what is not given comes from the node call under way."""
        call = current_call()
        if call is not None:
            root = call.node_id if root is None else root
            call_index = (call.list_index or 0) if call_index is None else call_index
            if graph_index is None:
                graph_index = call.next_graph()
        return f"{root or ''}.{call_index or 0}.{graph_index or 0}."

    def node(self, class_type: str, id: str | None = None, **inputs: Any) -> Node:
        """Add a node; one with an `id` that was added before is returned as it is."""
        if id is None:
            id = str(self._next_id)
            self._next_id += 1
        id = self.prefix + id
        if id not in self.nodes:
            self.nodes[id] = Node(id, class_type, inputs)
        return self.nodes[id]

    def lookup_node(self, id: str) -> Node | None:
        return self.nodes.get(self.prefix + id)

    def remove_node(self, id: str) -> None:
        del self.nodes[self.prefix + id]

    def replace_node_output(self, node_id: str, index: int, new_value: Any) -> None:
        """Give every input that links to this output `new_value` instead; None removes the input."""
        source = [self.prefix + node_id, index]
        for node in self.nodes.values():
            for name in [name for name, value in node.inputs.items() if is_link(value) and value == source]:
                node.set_input(name, new_value)

    def finalize(self) -> Prompt:
        """The subgraph, for `NodeOutput(expand=...)`."""
        return {id: node.serialize() for id, node in self.nodes.items()}


class Node:
    """One node under construction."""

    def __init__(self, id: str, class_type: str, inputs: dict[str, Any]) -> None:
        self.id = id
        self.class_type = class_type
        self.inputs = inputs
        self.override_display_id: str | None = None

    def out(self, index: int) -> Link:
        """A link to output `index`, to be another node's input or a result."""
        return [self.id, index]

    def get_input(self, name: str) -> Any:
        return self.inputs.get(name)

    def set_input(self, name: str, value: Any) -> None:
        """Set an input; None removes it."""
        if value is None:
            self.inputs.pop(name, None)
        else:
            self.inputs[name] = value

    def set_override_display_id(self, display_id: str) -> None:
        """Show this node as another one than the node that expanded."""
        self.override_display_id = display_id

    def serialize(self) -> dict[str, Any]:
        node: dict[str, Any] = {"class_type": self.class_type, "inputs": self.inputs}
        if self.override_display_id is not None:
            node["override_display_id"] = self.override_display_id
        return node
