"""Inputs of V1 nodes that stand nowhere by name, or are hidden from the client's form, reach the node."""

from __future__ import annotations

import pytest


class Anything(dict):
    """Says yes to every name, as some packs do for any number of inputs."""

    def __contains__(self, name):
        return True

    def __getitem__(self, name):
        return super().get(name, ("*",))


class Receives:
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    def run(self, **given):
        return {"ui": {"given": [given]}}


class OpenOptional(Receives):
    INPUT_TYPES = classmethod(lambda cls: {"required": {}, "optional": Anything()})


class OpenHidden(Receives):
    INPUT_TYPES = classmethod(lambda cls: {"required": {}, "hidden": Anything({"me": "UNIQUE_ID"})})


class HiddenValues(Receives):
    """As the loops of packs have it."""

    INPUT_TYPES = classmethod(
        lambda cls: {
            "required": {},
            "hidden": {"value0": ("*",), "value1": ("*",), "mode": (["a", "b"],), "me": "UNIQUE_ID"},
        }
    )


@pytest.fixture
async def k(kernel, n):
    return await kernel(*n.CLASSES, OpenOptional, OpenHidden, HiddenValues, cache="classic")


@pytest.mark.parametrize("kind", ["OpenOptional", "OpenHidden", "HiddenValues"])
async def test_constants_and_links_reach_the_node(k, n, kind):
    prompt = {"1": n.node("Num", value=5), "2": n.node(kind, value0=["1", 0], value1="text", mode="b")}
    given = (await k.run(prompt)).outputs["2"]["given"][0]
    own = {} if kind == "OpenOptional" else {"me": "2"}
    assert given == {"value0": 5, "value1": "text", "mode": "b", **own}
    k.events.clear()
    prompt["1"]["inputs"]["value"] = 6
    assert (await k.run(prompt)).outputs["2"]["given"][0]["value0"] == 6  # it counts for what is cached too


async def test_what_is_hidden_and_not_given_is_left_to_the_node(k, n):
    assert (await k.run({"1": n.node("HiddenValues")})).outputs["1"]["given"] == [{"me": "1"}]
