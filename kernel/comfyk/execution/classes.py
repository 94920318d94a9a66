"""The node classes of a running prompt: looked up once, their schemas read once for the job."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from comfyk.foreign_code import watch
from comfyk.graph.dynamic import DynamicPrompt
from comfyk.nodes.definition import InputTypes, LiveInputs, NodeDef
from comfyk.nodes.links import is_link
from comfyk.nodes.registry import NodeRegistry

_NESTED = (dict, list, tuple, Mapping)


class ClassGone(Exception):
    """A pack took a node's class away since the prompt was accepted."""

    def __init__(self, node_id: str, class_type: str) -> None:
        super().__init__(
            f"the class {class_type!r} is not installed any more; install its pack and queue it anew"
        )
        self.node_id = node_id


class NodeClasses:
    """Answers, for a node id, what its class says."""

    def __init__(self, prompt: DynamicPrompt, registry: NodeRegistry) -> None:
        self._prompt = prompt
        self._registry = registry
        self._definitions: dict[str, NodeDef] = {}
        self._types: dict[str, InputTypes] = {}
        self._may_be_lazy: dict[str, bool] = {}
        self._live: dict[str, LiveInputs] = {}

    def get(self, class_type: str) -> NodeDef | None:
        definition = self._definitions.get(class_type)
        if definition is None and (definition := self._registry.get(class_type)) is not None:
            self._definitions[class_type] = definition
        return definition

    def of(self, node_id: str) -> NodeDef:
        """The node's class. Raises ClassGone."""
        class_type = self._prompt.get_node(node_id)["class_type"]
        definition = self.get(class_type)
        if definition is None:
            raise ClassGone(node_id, class_type)
        return definition

    def live(self, node_id: str) -> LiveInputs:
        """The inputs that this node has, dynamic ones expanded for its values."""
        live = self._live.get(node_id)
        if live is None:
            definition = self.of(node_id)
            inputs = self._prompt.get_node(node_id)["inputs"]
            live = self._live[node_id] = definition.live_inputs(inputs, self._types_of(definition))
        return live

    def is_output(self, node_id: str) -> bool:
        return self.of(node_id).is_output

    def runs_first(self, node_id: str) -> bool:
        """Output nodes, since users wait for them, and async ones, since others can run meanwhile."""
        definition = self.of(node_id)
        return definition.is_output or definition.is_async

    def is_lazy(self, node_id: str, name: str) -> bool:
        definition = self.of(node_id)
        may_be = self._may_be_lazy.get(definition.name)
        if may_be is None:
            may_be = self._may_be_lazy[definition.name] = _mentions_lazy(self._types_of(definition))
        if not may_be:
            return False
        spec = self.live(node_id).specs.get(name)
        return spec is not None and spec.lazy

    def lazy_links(self, node_id: str) -> Collection[str]:
        """The inputs of this node that link to another and that it may ask for, or not."""
        definition = self.get(self._prompt.get_node(node_id)["class_type"])
        if definition is None or not definition.has("check_lazy_status"):
            return ()
        inputs = self._prompt.get_node(node_id)["inputs"]
        return [name for name, value in inputs.items() if is_link(value) and self.is_lazy(node_id, name)]

    def _types_of(self, definition: NodeDef) -> InputTypes:
        types = self._types.get(definition.name)
        if types is None:
            with watch("the schema of node", definition.name):
                types = self._types[definition.name] = definition.input_types()
        return types


def _mentions_lazy(schema: Any) -> bool:
    """Whether any input, also one inside a dynamic input, is lazy."""
    stack = [schema]
    while stack:
        part = stack.pop()
        if isinstance(part, Mapping):
            if part.get("lazy"):
                return True
            part = part.values()
        stack.extend(item for item in part if not isinstance(item, str) and isinstance(item, _NESTED))
    return False
