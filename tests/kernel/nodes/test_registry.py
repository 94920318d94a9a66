"""Registering nodes, and rewriting prompts that name nodes of old."""

import concurrent.futures
import copy
import logging
import threading
import time

import pytest
from comfyk import io
from comfyk.nodes.registry import NodeRegistry, UnknownNode


def v1(returns=()):
    body = {"INPUT_TYPES": classmethod(lambda cls: {}), "RETURN_TYPES": returns, "FUNCTION": "run"}
    return type("Node", (), body | {"run": lambda self: None})


@pytest.fixture
def registry():
    return NodeRegistry()


def test_lookup(registry):
    cls = v1()
    definition = registry.add(cls, name="LoadImage", display_name="Load", python_module="custom_nodes.x")
    assert registry["LoadImage"] is registry.get("LoadImage") is definition
    assert (definition.display_name, definition.python_module) == ("Load", "custom_nodes.x")
    assert "LoadImage" in registry and registry.names() == ["LoadImage"]
    assert list(registry) == [definition] and len(registry) == 1
    assert registry.source("LoadImage") == "custom_nodes.x"
    assert registry.get("other") is None
    with pytest.raises(KeyError, match="did you mean LoadImage"):
        registry["LoadImages"]
    with pytest.raises(UnknownNode, match="a node pack may be missing"):
        registry["zzz"]


def test_override_warns_and_comes_back(registry, caplog):
    registry.add(v1(("INT",)), name="N", source="core")
    with caplog.at_level(logging.WARNING):
        registry.add(v1(("MASK",)), name="N", source="pack")
    assert "core" in caplog.text and "pack" in caplog.text
    assert registry["N"].output_types == ("MASK",)
    assert registry.remove_source("pack") == ["N"]
    assert registry["N"].output_types == ("INT",)
    assert registry.remove_source("core") == ["N"]
    assert "N" not in registry


def test_revision_grows(registry):
    seen = [registry.revision]
    registry.add(v1(), name="N", source="a")
    seen.append(registry.revision)
    registry.add_replacement(io.NodeReplace("N", "Old"))
    seen.append(registry.revision)
    registry.remove_source("a")
    seen.append(registry.revision)
    assert seen == sorted(set(seen))


def test_class_mappings(registry):
    mappings = registry.class_mappings
    cls = v1()
    mappings["N"] = cls
    mappings.update(M=v1())
    assert mappings["N"] is cls and dict(mappings).keys() == {"N", "M"}
    del mappings["M"]
    assert registry.names() == ["N"] and mappings.get("M") is None and len(mappings) == 1


PROMPT = {
    "1": {"class_type": "Old", "inputs": {"a": 1, "b": ["3", 0]}, "_meta": {"title": "t"}},
    "2": {"class_type": "Other", "inputs": {"x": ["1", 0], "y": ["1", 1], "z": ["1", 2], "w": [1, 2]}},
    "3": {"class_type": "Gone", "inputs": {}},
    "4": {"class_type": "Old", "inputs": {"b": ["1", 1]}},
    "5": "rubbish",
}


def test_replacements(registry):
    for name in ("New", "Other"):
        registry.add(v1(), name=name)
    registry.add_replacement(
        io.NodeReplace(
            "New",
            "Old",
            input_mapping=[
                {"new_id": "alpha", "old_id": "a"},
                {"new_id": "group.beta", "old_id": "b"},
                {"new_id": "mode", "set_value": "fast"},
            ],
            output_mapping=[{"new_idx": 1, "old_idx": 0}, {"new_idx": 0, "old_idx": 1}],
        )
    )
    registry.add_replacement(io.NodeReplace("New", "Old"))
    registry.add_replacement(io.NodeReplace("Missing", "Gone"))
    registry.add_replacement(io.NodeReplace("New", "Other"))
    assert len(registry.replacements["Old"]) == 1
    prompt = copy.deepcopy(PROMPT)
    assert registry.apply_replacements(prompt) == ["1", "4"]
    assert prompt == {
        "1": {
            "class_type": "New",
            "inputs": {"alpha": 1, "group.beta": ["3", 0], "mode": "fast"},
            "_meta": {"title": "t"},
        },
        "2": {"class_type": "Other", "inputs": {"x": ["1", 1], "y": ["1", 0], "z": ["1", 2], "w": [1, 2]}},
        "3": {"class_type": "Gone", "inputs": {}},
        "4": {"class_type": "New", "inputs": {"group.beta": ["1", 0], "mode": "fast"}},
        "5": "rubbish",
    }


def test_replacements_go_with_their_source(registry):
    registry.add_replacement(io.NodeReplace("New", "Old"), source="pack")
    registry.remove_source("pack")
    assert registry.replacements == {}


def test_a_registry_is_read_while_other_threads_change_it() -> None:
    registry = NodeRegistry()
    cls = v1()
    stop = threading.Event()

    def change(source: str) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            registry.add(cls, name=f"{number % 50}", source=source)
            registry.add_replacement(io.NodeReplace(f"new{number % 50}", f"old{number % 20}"), source=source)
            if number % 20 == 0:
                registry.remove_source(source)

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        changes = [pool.submit(change, source) for source in "abc"]
        until = time.monotonic() + 1
        while time.monotonic() < until:
            assert len([node.name for node in registry]) <= 50
            _ = registry.replacements, registry.names("a"), list(registry.class_mappings)
            for number in range(50):
                node = registry.get(str(number))
                assert node is None or node.cls is cls
        stop.set()
    for changing in changes:
        changing.result()


def test_a_definition_says_what_it_is(registry):
    definition = registry.add(v1(), name="Plain", python_module="custom_nodes.mine")
    assert repr(definition) == "<V1NodeDef 'Plain' of custom_nodes.mine>"
