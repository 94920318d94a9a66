"""Any graph runs in an order in which each node comes once, after all that it links to."""

from __future__ import annotations

import asyncio

import pytest
from comfyk.graph.dynamic import DynamicPrompt
from comfyk.graph.order import DependencyCycleError, ExecutionOrder, NodeInputError
from hypothesis import given
from hypothesis import strategies as st


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, dict]:
    """An acyclic prompt: each node links to some before it."""
    size = draw(st.integers(1, 25))
    prompt = {}
    for index in range(size):
        sources = draw(st.lists(st.integers(0, max(index - 1, 0)), max_size=4)) if index else []
        inputs = {f"in{slot}": [str(source), slot] for slot, source in enumerate(sources)}
        prompt[str(index)] = {"class_type": "N", "inputs": inputs}
    return prompt


def make_order(prompt, *, done=(), lazy=(), outputs=(), links=None):
    done = set(done)
    return done, ExecutionOrder(
        DynamicPrompt(prompt),
        is_done=done.__contains__,
        is_lazy=lambda node, name: (node, name) in lazy,
        is_output=lambda node: node in outputs,
        runs_first=lambda node: node in outputs,
        on_link=lambda source, consumer: links.append((source, consumer)) if links is not None else None,
    )


def dissolve(order, done):
    async def go():
        sequence = []
        while order:
            node = await order.next()
            sequence.append(node)
            done.add(node)
            order.complete(node)
        return sequence

    return asyncio.run(go())


def ancestors(prompt, node):
    found, stack = set(), [node]
    while stack:
        current = stack.pop()
        if current not in found:
            found.add(current)
            stack.extend(value[0] for value in prompt[current]["inputs"].values())
    return found


@given(graphs(), st.data())
def test_each_needed_node_runs_once_and_after_what_it_links_to(prompt, data):
    targets = data.draw(st.lists(st.sampled_from(sorted(prompt)), min_size=1, max_size=3, unique=True))
    done, order = make_order(prompt, outputs=targets)
    for target in targets:
        order.add(target)
    sequence = dissolve(order, done)

    assert len(sequence) == len(set(sequence))
    assert set(sequence) == set().union(*(ancestors(prompt, target) for target in targets))
    place = {node: index for index, node in enumerate(sequence)}
    for node in sequence:
        for source, _ in prompt[node]["inputs"].values():
            assert place[source] < place[node]


@given(graphs(), st.data())
def test_what_is_done_is_not_run_again(prompt, data):
    target = data.draw(st.sampled_from(sorted(prompt)))
    cached = data.draw(st.sets(st.sampled_from(sorted(prompt)))) - {target}
    done, order = make_order(prompt, done=cached)
    order.add(target)
    assert not set(dissolve(order, done)) & cached


def test_an_output_that_is_ready_runs_before_other_work():
    prompt = {
        "load": {"class_type": "N", "inputs": {}},
        "slow": {"class_type": "N", "inputs": {"x": ["load", 0]}},
        "more": {"class_type": "N", "inputs": {"x": ["slow", 0]}},
        "preview": {"class_type": "N", "inputs": {"x": ["load", 0]}},
        "save": {"class_type": "N", "inputs": {"x": ["more", 0]}},
    }
    done, order = make_order(prompt, outputs={"preview", "save"})
    order.add("save")
    order.add("preview")
    assert dissolve(order, done) == ["load", "preview", "slow", "more", "save"]


def test_what_leads_to_an_output_sooner_runs_sooner():
    prompt = {
        "far0": {"class_type": "N", "inputs": {}},
        "far1": {"class_type": "N", "inputs": {"x": ["far0", 0]}},
        "far2": {"class_type": "N", "inputs": {"x": ["far1", 0]}},
        "far3": {"class_type": "N", "inputs": {"x": ["far2", 0]}},
        "late": {"class_type": "N", "inputs": {"x": ["far3", 0]}},
        "near": {"class_type": "N", "inputs": {}},
        "soon": {"class_type": "N", "inputs": {"x": ["near", 0]}},
    }
    done, order = make_order(prompt, outputs={"late", "soon"})
    order.add("late")
    order.add("soon")
    sequence = dissolve(order, done)
    assert sequence[:2] == ["near", "soon"]


def test_lazy_inputs_wait_until_they_are_asked_for():
    prompt = {
        "a": {"class_type": "N", "inputs": {}},
        "b": {"class_type": "N", "inputs": {}},
        "switch": {"class_type": "N", "inputs": {"on": ["a", 0], "off": ["b", 0], "which": True}},
    }
    links = []
    _, order = make_order(prompt, lazy={("switch", "on"), ("switch", "off")}, links=links)

    async def go():
        order.add("switch")
        assert await order.next() == "switch"
        order.require_input("switch", "off")
        order.put_back("switch")
        assert await order.next() == "b"
        order.complete("b")
        assert await order.next() == "switch"
        with pytest.raises(NodeInputError, match="'which'"):
            order.require_input("switch", "which")
        with pytest.raises(NodeInputError, match="'other'"):
            order.require_input("switch", "other")
        order.complete("switch")

    asyncio.run(go())
    assert not order
    assert links == [("b", "switch")]


def test_a_cycle_is_an_error_that_names_its_nodes_only():
    prompt = {
        "before": {"class_type": "N", "inputs": {}},
        "a": {"class_type": "N", "inputs": {"x": ["b", 0], "y": ["before", 0]}},
        "b": {"class_type": "N", "inputs": {"x": ["a", 0]}},
    }
    done, order = make_order(prompt)
    order.add("a")
    with pytest.raises(DependencyCycleError) as error:
        dissolve(order, done)
    assert sorted(error.value.nodes) == ["a", "b"]


def test_a_blocked_node_waits_for_its_release_and_others_go_on():
    prompt = {"a": {"class_type": "N", "inputs": {}}, "b": {"class_type": "N", "inputs": {}}}

    async def go():
        _, order = make_order(prompt)
        order.add("a")
        order.add("b")
        assert await order.next() == "a"
        release = order.block("a")
        order.put_back("a")
        assert await order.next() == "b"
        order.complete("b")
        asyncio.get_running_loop().call_soon(release)
        assert await order.next() == "a"

    asyncio.run(go())
