"""The prompt as a node sees it that asks for `DYNPROMPT`: by the names that node packs call."""

from __future__ import annotations

import pytest
from comfyk.graph.dynamic import DynamicPrompt

ONE = {"class_type": "One", "inputs": {}}
TWO = {"class_type": "Two", "inputs": {"a": ["1", 0]}}


def test_added_nodes_are_known_beside_the_clients_and_lead_back_to_them() -> None:
    prompt = DynamicPrompt({"1": ONE})
    prompt.add_ephemeral_node("1.0.2", TWO, "1", "1")
    prompt.add_ephemeral_node("1.0.2.0.3", TWO, "1.0.2", "1.0.2")
    assert prompt.all_node_ids() == {"1", "1.0.2", "1.0.2.0.3"}
    assert prompt.get_original_prompt() == {"1": ONE}
    assert prompt.get_pair("1.0.2") == ("1.0.2", "Two") and prompt.has_node("1.0.2")
    assert prompt.get_parent_node_id("1.0.2.0.3") == "1.0.2" and prompt.get_parent_node_id("1") is None
    assert prompt.get_real_node_id("1.0.2.0.3") == prompt.get_display_node_id("1.0.2.0.3") == "1"
    with pytest.raises(KeyError, match="9"):
        prompt.get_node("9")
