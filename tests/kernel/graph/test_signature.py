"""A signature changes with what a node's result depends on, and with nothing else."""

from __future__ import annotations

import asyncio
import copy
import math
from types import SimpleNamespace

import pytest
from comfyk.graph.dynamic import DynamicPrompt
from comfyk.graph.signature import Signatures, Uncacheable, canonical
from hypothesis import given
from hypothesis import strategies as st

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def definition(*, idempotent=True, fingerprint=None):
    return SimpleNamespace(
        not_idempotent=not idempotent, wants_unique_id=False, has=lambda method: fingerprint is not None
    )


def signatures_of(prompt, definitions=None, fingerprint=None):
    definitions = definitions or {}

    async def ask(node_id, node, inputs):
        return fingerprint(node_id)

    async def go():
        signatures = Signatures(DynamicPrompt(prompt), lambda name: definitions.get(name, definition()), ask)
        await signatures.add(prompt)
        return {node: signatures[node] for node in prompt}

    return asyncio.run(go())


@st.composite
def prompts(draw):
    prompt = {}
    for index in range(draw(st.integers(1, 12))):
        inputs = {"value": draw(json_values.filter(lambda value: not isinstance(value, list)))}
        for slot in range(draw(st.integers(0, 3)) if index else 0):
            inputs[f"link{slot}"] = [str(draw(st.integers(0, index - 1))), slot]
        prompt[str(index)] = {"class_type": draw(st.sampled_from("AB")), "inputs": inputs}
    return prompt


def dependents(prompt, node):
    found = {node}
    for other in sorted(prompt, key=int):
        links = [value[0] for value in prompt[other]["inputs"].values() if isinstance(value, list)]
        if found & set(links):
            found.add(other)
    return found


@given(prompts(), st.randoms())
def test_order_of_nodes_and_inputs_and_their_ids_do_not_matter(prompt, random):
    nodes = list(prompt)
    random.shuffle(nodes)
    renamed = {}
    for node in nodes:
        inputs = list(prompt[node]["inputs"].items())
        random.shuffle(inputs)
        renamed["n" + node] = {
            "class_type": prompt[node]["class_type"],
            "inputs": {
                name: ["n" + value[0], value[1]] if isinstance(value, list) else value
                for name, value in inputs
            },
        }
    before, after = signatures_of(prompt), signatures_of(renamed)
    assert {"n" + node: key for node, key in before.items()} == after


@given(prompts(), st.data())
def test_a_changed_constant_changes_the_node_and_all_behind_it_and_nothing_else(prompt, data):
    node = data.draw(st.sampled_from(sorted(prompt)))
    changed = copy.deepcopy(prompt)
    changed[node]["inputs"]["value"] = {"changed": prompt[node]["inputs"]["value"]}
    before, after = signatures_of(prompt), signatures_of(changed)
    assert {other for other in prompt if before[other] != after[other]} == dependents(prompt, node)


@given(json_values, json_values)
def test_canonical_texts_are_equal_only_for_equal_values(one, other):
    def typed(value):
        if isinstance(value, list):
            return [typed(item) for item in value]
        if isinstance(value, dict):
            return {key: typed(item) for key, item in value.items()}
        return type(value), repr(value)

    assert (canonical(one) == canonical(other)) == (typed(one) == typed(other))


@pytest.mark.parametrize("value", [math.nan, [1, math.nan], object(), {"a": object()}])
def test_what_has_no_stable_form_is_not_cacheable(value):
    with pytest.raises(Uncacheable):
        canonical(value)


def test_nodes_that_are_not_idempotent_share_nothing():
    prompt = {name: {"class_type": "Dice", "inputs": {"seed": 1}} for name in "ab"}
    assert len(set(signatures_of(prompt, {"Dice": definition(idempotent=False)}).values())) == 2
    assert len(set(signatures_of(prompt).values())) == 1


def test_a_fingerprint_is_part_of_the_signature_and_nan_never_matches():
    prompt = {"a": {"class_type": "File", "inputs": {}}, "b": {"class_type": "N", "inputs": {"x": ["a", 0]}}}
    file = {"File": definition(fingerprint=True)}
    first = signatures_of(prompt, file, lambda node: "hash 1")
    assert first == signatures_of(prompt, file, lambda node: "hash 1")
    second = signatures_of(prompt, file, lambda node: "hash 2")
    assert first["a"] != second["a"] and first["b"] != second["b"]
    nan = [signatures_of(prompt, file, lambda node: math.nan) for _ in range(2)]
    assert nan[0]["a"] != nan[1]["a"] and nan[0]["b"] != nan[1]["b"]


def test_a_cycle_and_a_missing_node_end():
    prompt = {
        "a": {"class_type": "N", "inputs": {"x": ["b", 0]}},
        "b": {"class_type": "N", "inputs": {"x": ["a", 0], "y": ["gone", 0]}},
        "self": {"class_type": "N", "inputs": {"x": ["self", 0]}},
    }
    assert len(set(signatures_of(prompt).values())) == 3


def test_a_chain_of_20000_nodes_needs_no_recursion():
    prompt = {"0": {"class_type": "N", "inputs": {}}}
    for index in range(1, 20_000):
        prompt[str(index)] = {"class_type": "N", "inputs": {"x": [str(index - 1), 0]}}
    backwards = dict(reversed(prompt.items()))
    assert len(set(signatures_of(backwards).values())) == 20_000
