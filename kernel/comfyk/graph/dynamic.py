"""The prompt as it stands while it runs: the nodes that the client sent, and those that expansion added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from comfyk.nodes.links import Prompt


@dataclass(frozen=True, slots=True)
class _Added:
    node: dict[str, Any]
    parent: str
    display: str


class DynamicPrompt:
    """What a node that asks for `DYNPROMPT` gets; its method names are those of the field."""

    def __init__(self, original: Prompt) -> None:
        self.original_prompt = original
        self._added: dict[str, _Added] = {}

    def get_node(self, node_id: str) -> dict[str, Any]:
        """The node `{"class_type", "inputs"}`. Raises KeyError that names it."""
        added = self._added.get(node_id)
        if added is not None:
            return added.node
        try:
            return self.original_prompt[node_id]
        except KeyError:
            raise KeyError(f"node {node_id!r} is not in the prompt") from None

    def get_pair(self, node_id: str) -> tuple[str, str]:
        """The node's id and its class."""
        return node_id, self.get_node(node_id)["class_type"]

    def has_node(self, node_id: str) -> bool:
        return node_id in self._added or node_id in self.original_prompt

    def add_ephemeral_node(self, node_id: str, node: dict[str, Any], parent_id: str, display_id: str) -> None:
        """Add a node of the subgraph that `parent_id` expanded to; the UI shows it as `display_id`."""
        self._added[node_id] = _Added(node, parent_id, display_id)

    def get_parent_node_id(self, node_id: str) -> str | None:
        """The node whose expansion added this one, or None."""
        added = self._added.get(node_id)
        return added.parent if added else None

    def get_real_node_id(self, node_id: str) -> str:
        """The node of the client's prompt that this one comes from."""
        while (added := self._added.get(node_id)) is not None:
            node_id = added.parent
        return node_id

    def get_display_node_id(self, node_id: str) -> str:
        """The node that the UI shows in this one's place."""
        seen: set[str] = set()
        while (added := self._added.get(node_id)) is not None and node_id not in seen:
            seen.add(node_id)  # two nodes may name each other
            node_id = added.display
        return node_id

    def all_node_ids(self) -> set[str]:
        """Those that the client sent, and those that were added: for nodes of packs."""
        return set(self.original_prompt) | set(self._added)

    def get_original_prompt(self) -> Prompt:
        """As the client sent it."""
        return self.original_prompt
