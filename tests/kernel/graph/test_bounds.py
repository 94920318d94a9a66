"""What is told of a prompt is bounded, whatever its graph; and while it is looked at, others have their turn."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest
from comfyk.graph.validation import PromptError, check_shape, validate_prompt
from comfyk.nodes.registry import NodeRegistry
from comfyk.wire import dumps


class Step:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"x": ("INT",)}, "optional": {"y": ("*",)}})
    RETURN_TYPES = ("INT",)
    FUNCTION = "run"

    def run(self, **inputs): ...


class Out(Step):
    OUTPUT_NODE = True


class Multi(Out):
    INPUT_TYPES = classmethod(
        lambda cls: {"required": {"m": ([str(i) for i in range(1000)], {"multiselect": True})}}
    )


class Strict(Out):
    @classmethod
    def VALIDATE_INPUTS(cls, **inputs):
        return "no" * 1_000_000


@pytest.fixture
def nodes():
    registry = NodeRegistry()
    for cls in (Step, Out, Multi, Strict):
        registry.add(cls)
    return registry


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


async def refused(prompt, nodes):
    with pytest.raises(PromptError) as error:
        await validate_prompt(check_shape(prompt), nodes)
    return error.value


def cycle(count):
    prompt = {str(i): node("Step", x=1, y=[str((i + 1) % count), 0]) for i in range(count)}
    return prompt | {"out": node("Out", x=["0", 0])}


def small_cycles(count):
    prompt = {str(i): node("Step", x=[str(i ^ 1), 0]) for i in range(count)}
    return prompt | {f"out{i}": node("Out", x=[str(i), 0]) for i in range(count)}


def back_to_each(count):
    """A chain whose every node is linked to by the last ones: as many cycles as there are ways round."""
    prompt = {str(i): node("Step", x=[str(i + 1), 0], y=[str(i // 2), 0]) for i in range(count)}
    return prompt | {str(count): node("Step", x=["0", 0]), "out": node("Out", x=["0", 0])}


def fan_out(count):
    return {"0": node("Step")} | {str(i): node("Out", x=["0", 0]) for i in range(1, count)}


GRAPHS = {
    "cycle": cycle,
    "small cycles": small_cycles,
    "back to each": back_to_each,
    "fan-out": fan_out,
    "missing inputs": lambda count: {str(i): node("Out") for i in range(count)},
    "missing nodes": lambda count: {str(i): node("Out", x=["nowhere", 0]) for i in range(count)},
    "unknown classes": lambda count: {str(i): node("Gone") for i in range(count)},
    "one that runs": lambda count: {str(i): node("Out") for i in range(count)} | {"good": node("Out", x=1)},
}


@pytest.mark.parametrize("graph", GRAPHS)
async def test_answer_and_log_are_no_larger_than_the_request(nodes, caplog, graph):
    caplog.set_level(logging.WARNING)
    prompt = GRAPHS[graph](5000)
    if graph == "one that runs":
        valid = await validate_prompt(prompt, nodes)
        assert valid.targets == ["good"]
        answer = valid.node_errors
    else:
        failure = await refused(prompt, nodes)
        answer = {"error": failure.error, "node_errors": failure.node_errors}
    request = len(dumps(prompt))
    assert len(dumps(answer)) < request
    assert sum(len(record.getMessage()) for record in caplog.records) < request


async def test_a_long_cycle_is_cut_and_counted(nodes):
    failure = await refused(cycle(5000), nodes)
    found = failure.node_errors["0"]["errors"][0]
    assert found["type"] == "dependency_cycle"
    assert found["extra_info"]["cycle_length"] == 5000
    assert len(found["extra_info"]["cycle_nodes"]) == 50
    assert found["details"].startswith("0 (Step) -> 1 (Step)") and found["details"].endswith("(4,951 more)")


async def test_nodes_and_outputs_that_are_not_listed_are_counted(nodes):
    failure = await refused({str(i): node("Out") for i in range(5000)}, nodes)
    assert len(failure.node_errors) == 200
    last = failure.node_errors["199"]["errors"][-1]
    assert (last["type"], last["message"]) == (
        "errors_left_out",
        "4,800 more nodes have errors that are not listed",
    )
    failure = await refused(fan_out(5001), nodes)
    entry = failure.node_errors["0"]
    assert len(entry["dependent_outputs"]) == 50
    assert entry["dependent_outputs_left_out"] == 4950


async def test_large_values_are_not_sent_back(nodes):
    failure = await refused({"1": node("Out", x={"a": "b" * 1_000_000})}, nodes)
    (found,) = failure.node_errors["1"]["errors"]
    assert found["type"] == "invalid_input_type"
    assert found["extra_info"]["received_value"].endswith("more characters)")
    assert len(dumps(failure.node_errors)) < 10_000
    failure = await refused({"1": node("x" * 1_000_000)}, nodes)
    assert len(dumps({"error": failure.error, "node_errors": failure.node_errors})) < 30_000


async def test_what_authors_say_is_cut_too(nodes):
    failure = await refused({"1": node("Strict", x=1, y=2)}, nodes)
    assert len(failure.node_errors["1"]["errors"]) == 2
    assert len(dumps(failure.node_errors)) < 10_000


async def test_many_choices_are_looked_up_in_one_go(nodes):
    begun = time.process_time()
    failure = await refused({"1": node("Multi", m={"__value__": ["9", *["none"] * 200_000]})}, nodes)
    (found,) = failure.node_errors["1"]["errors"]
    assert found["details"].startswith("m: 'none', ") and "(199,950 more)" in found["details"]
    assert time.process_time() - begun < 5  # 200,000 times 1,000 comparisons take longer


def test_too_many_nodes_are_refused_with_the_setting(nodes):
    prompt = {str(i): {} for i in range(11)}
    assert check_shape(prompt, max_nodes=11)
    with pytest.raises(PromptError) as error:
        check_shape(prompt, max_nodes=10)
    assert error.value.error["type"] == "too_many_nodes"
    assert "jobs.max_nodes" in error.value.error["details"]


async def test_a_large_prompt_leaves_the_loop_to_others(nodes):
    turns = 0

    async def others():
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(others())
    await refused({str(i): node("Out") for i in range(20_000)}, nodes)
    task.cancel()
    assert turns > 20


async def test_a_check_that_does_not_return_stops_nobody(nodes):
    """It is the author's; others validate meanwhile, with checks of their own too."""
    released = threading.Event()

    class Stuck(Out):
        @classmethod
        def VALIDATE_INPUTS(cls, x):
            return released.wait(60)

    class Quick(Out):
        @classmethod
        def VALIDATE_INPUTS(cls, x):
            return True

    nodes.add(Stuck)
    nodes.add(Quick)
    try:
        stuck = [asyncio.create_task(validate_prompt({"1": node("Stuck", x=1)}, nodes)) for _ in range(10)]
        await asyncio.sleep(0)
        async with asyncio.timeout(20):
            assert (await validate_prompt({"1": node("Quick", x=1)}, nodes)).targets == ["1"]
            assert (await validate_prompt({"1": node("Out", x=1)}, nodes)).targets == ["1"]
    finally:
        released.set()
    for valid in await asyncio.gather(*stuck):
        assert valid.targets == ["1"]
