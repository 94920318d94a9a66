"""What is above a lazy input that a node does not ask for is no part of what its result depends on."""

from __future__ import annotations

import random

import pytest


class Double:
    """Asks for `b` when `a` is odd: what is asked for next depends on what was asked for before."""

    INPUT_TYPES = classmethod(
        lambda cls: {"required": {"a": ("*", {"lazy": True}), "b": ("*", {"lazy": True})}}
    )
    RETURN_TYPES = ("*",)
    FUNCTION = "run"

    def check_lazy_status(self, a=None, b=None):
        if a is None:
            return ["a"]
        return ["b"] if a % 2 and b is None else []

    def run(self, a, b):
        return (a + b if a % 2 else a,)


class Greedy:
    """Uses what it has not asked for, if that is there."""

    INPUT_TYPES = classmethod(
        lambda cls: {"required": {"value": ("*",)}, "optional": {"more": ("*", {"lazy": True})}}
    )
    RETURN_TYPES = ("*",)
    FUNCTION = "run"

    def check_lazy_status(self, value, more=None):
        return []

    def run(self, value, more=None):
        return (value if more is None else value + more,)


@pytest.fixture
async def k(kernel, n):
    return await kernel(*n.CLASSES, Double, Greedy, cache="classic")


def switch(n, value, *, which=False):
    return {
        "up": n.node("Num", value=value),
        "own": n.node("Num", value=7),
        "lazy": n.node("Switch", which=which, on=["up", 0], off=["own", 0]),
        "below": n.node("Add", a=["lazy", 0], b=1),
        "show": n.node("Show", x=["below", 0]),
    }


async def test_a_change_above_what_is_not_asked_for_runs_nothing(k, n):
    assert (await k.run(switch(n, 1))).outputs == {"show": {"text": [8]}}
    assert set(k.ran()) == {"own", "lazy", "below", "show"}
    for value in (2, 3):
        k.events.clear()
        assert (await k.run(switch(n, value))).outputs == {"show": {"text": [8]}}
        assert k.ran() == []


async def test_a_change_above_what_is_asked_for_runs_all_below(k, n):
    for value in (1, 2):
        k.events.clear()
        assert (await k.run(switch(n, value, which=True))).outputs == {"show": {"text": [value + 1]}}
        assert set(k.ran()) == {"up", "lazy", "below", "show"}


async def test_what_is_at_hand_is_not_given_unless_it_is_asked_for(k, n):
    prompt = {
        "more": n.node("Num", value=100),
        "first": n.node("Show", x=["more", 0]),
        "greedy": n.node("Greedy", value=["own", 0], more=["more", 0]),
        "own": n.node("Num", value=1),
        "show": n.node("Show", x=["greedy", 0]),
    }
    assert (await k.run(prompt)).outputs["show"] == {"text": [1]}
    prompt["more"]["inputs"]["value"] = 200
    k.events.clear()
    assert (await k.run(prompt)).outputs == {"first": {"text": [200]}, "show": {"text": [1]}}
    assert set(k.ran()) == {"more", "first"}


async def test_what_was_chosen_counts_by_its_output_too(k, n):
    def prompt(slot):
        return {
            "list": n.node("Range", n=1),
            "lazy": n.node("Switch", which=True, on=["list", slot], off=["list", 0]),
            "show": n.node("Show", x=["lazy", 0]),
        }

    assert (await k.run(prompt(0))).outputs == {"show": {"text": [0]}}
    assert (await k.run(prompt(1))).outputs == {"show": {"text": ["1 numbers"]}}


def value_of(prompt, node_id, used):
    """What a node gives, and in `used` every node that it really depends on."""
    used.add(node_id)
    node = prompt[node_id]
    inputs = node["inputs"]

    def of(name):
        return value_of(prompt, inputs[name][0], used)

    match node["class_type"]:
        case "Num":
            return inputs["value"]
        case "Add":
            return of("a") + of("b")
        case "Switch":
            return of("on" if inputs["which"] else "off")
        case "Double":
            first = of("a")
            return first + of("b") if first % 2 else first
    return of("x")


def identity(prompt, node_id):
    """All that a node's result depends on, as a text."""
    used = set()
    value_of(prompt, node_id, used)
    return repr(shape(prompt, node_id, used))


def shape(prompt, node_id, used):
    node = prompt[node_id]
    inputs = node["inputs"]
    parts = []
    for name in sorted(inputs):
        value = inputs[name]
        if not isinstance(value, list):
            parts.append((name, value))
        elif (node["class_type"] == "Switch" and name != ("on" if inputs["which"] else "off")) or (
            node["class_type"] == "Double"
            and name == "b"
            and value_of(prompt, inputs["a"][0], set()) % 2 == 0
        ):
            parts.append((name, "unused"))
        else:
            parts.append((name, shape(prompt, value[0], used)))
    return node["class_type"], parts


@pytest.mark.parametrize("seed", range(6))
async def test_any_graph_runs_just_what_its_result_depends_on(k, n, seed):
    dice = random.Random(seed)
    prompt = {"0": n.node("Num", value=0), "1": n.node("Num", value=1)}
    for index in range(2, 12):
        one, other = ([str(dice.randrange(index)), 0] for _ in range(2))
        made = dice.choice(
            [
                n.node("Num", value=dice.randrange(4)),
                n.node("Add", a=one, b=other),
                n.node("Switch", which=dice.random() < 0.5, on=one, off=other),
                n.node("Double", a=one, b=other),
            ]
        )
        prompt[str(index)] = made
    prompt["show"] = n.node("Show", x=["11", 0])
    known = set()
    for _ in range(12):
        k.events.clear()
        outcome = await k.run(
            {node_id: {**node, "inputs": dict(node["inputs"])} for node_id, node in prompt.items()}
        )
        assert outcome.outputs == {"show": {"text": [value_of(prompt, "11", set())]}}
        used = set()
        value_of(prompt, "show", used)
        identities = {node_id: identity(prompt, node_id) for node_id in prompt}
        ran = set(k.ran())
        assert ran <= {node_id for node_id in used if identities[node_id] not in known}
        if identities["show"] not in known:
            assert "show" in ran
        # the classic cache keeps what this prompt has, as far as it was there or ran
        known = {identities[node_id] for node_id in prompt if node_id in ran or identities[node_id] in known}
        numbers = [node_id for node_id, node in prompt.items() if node["class_type"] in ("Num", "Switch")]
        changed = prompt[dice.choice(numbers)]["inputs"]
        if "value" in changed:
            changed["value"] = dice.randrange(4)
        else:
            changed["which"] = not changed["which"]
