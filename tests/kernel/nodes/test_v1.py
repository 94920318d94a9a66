"""A V1 node behind the NodeDef face, with everything that packs do."""

import pytest
from comfyk import io
from comfyk.nodes.v1 import V1NodeDef


class Anything(str):
    __slots__ = ()

    def __ne__(self, other):
        return False


ANY = Anything("*")


class Yes(dict):
    """Takes any name, as the packs with growing inputs have it."""

    def __contains__(self, name):
        return True

    def __getitem__(self, name):
        return super().get(name, (ANY, {"from": "anywhere"}))


def make(inputs=None, returns=("INT",), **attributes):
    body = {
        "INPUT_TYPES": classmethod(lambda cls: inputs or {"required": {}}),
        "RETURN_TYPES": returns,
        "FUNCTION": "run",
        "run": lambda self, **kwargs: (kwargs,),
    }
    return type("Node", (), body | attributes)


def call(definition, method="execute", hidden=None, obj=None, **values):
    live = definition.live_inputs(values)
    obj = definition.create() if obj is None and method == "execute" else obj
    return definition.call(obj, method, values, live, hidden or {})


def test_specs():
    definition = V1NodeDef(
        make(
            {
                "required": {
                    "mode": (["a", "b"],),
                    "names": (("x", "y"), {"default": "x"}),
                    "image": ("IMAGE",),
                    "raw": ("IMAGE", {"lazy": True, "rawLink": True}),
                },
                "optional": {"n": ["INT", {"min": 1}], "odd": ("INT", 5)},
                "hidden": {"id": "UNIQUE_ID", "p": ("PROMPT",)},
            }
        )
    )
    live = definition.live_inputs({})
    assert live.specs["mode"].choices == ["a", "b"]
    assert live.specs["names"].type == ["x", "y"]
    assert live.specs["image"].required and not live.specs["n"].required
    assert live.specs["raw"].lazy and live.specs["raw"].raw_link
    assert live.specs["n"].options == {"min": 1} and live.specs["odd"].options == {}
    assert live.hidden == {"id": "UNIQUE_ID", "p": "PROMPT"}
    assert definition.wants_unique_id


def test_inputs_of_any_name():
    definition = V1NodeDef(make({"required": {}, "optional": Yes(known=("INT",))}))
    live = definition.live_inputs({"lora_1": {"on": True}, "known": 1})
    assert list(live.specs) == ["known", "lora_1"]
    assert live.specs["lora_1"].type is ANY
    assert not live.specs["lora_1"].required


def test_any_type_survives():
    definition = V1NodeDef(make(returns=(ANY, ["a", "b"])))
    assert definition.output_types[0] is ANY
    assert definition.info()["output"] == ["*", ["a", "b"]]


def test_flags():
    definition = V1NodeDef(
        make(
            OUTPUT_NODE=True,
            INPUT_IS_LIST=True,
            OUTPUT_IS_LIST=(True,),
            NOT_IDEMPOTENT=True,
            HAS_INTERMEDIATE_OUTPUT=True,
        )
    )
    assert definition.is_output and definition.input_is_list and definition.not_idempotent
    assert definition.has_intermediate_output and definition.output_is_list == (True,)
    assert V1NodeDef(make(returns=("INT", "INT"))).output_is_list == (False, False)


def test_a_forgotten_comma():
    definition = V1NodeDef(make(returns="IMAGE", RETURN_NAMES="picture"))
    assert definition.output_types == ("IMAGE",)
    assert definition.info()["output_name"] == ["picture"]


def test_hidden_arguments():
    inputs = {"required": {}, "hidden": {"me": "UNIQUE_ID", "token": "AUTH_TOKEN_COMFY_ORG", "x": "NOVELTY"}}
    hidden = {"UNIQUE_ID": "3", "PROMPT": {}}
    assert call(V1NodeDef(make(inputs)), hidden=hidden) == ({"me": "3", "token": None},)
    as_lists = V1NodeDef(make(inputs, INPUT_IS_LIST=True))
    assert call(as_lists, hidden=hidden) == ({"me": ["3"], "token": [None]},)


INPUTS = {"required": {"a": ("INT",), "b": ("INT",)}}


@pytest.mark.parametrize(
    "method",
    [
        classmethod(lambda cls, a: a > 1),
        staticmethod(lambda a: a > 1),
        lambda self, a: a > 1,
        lambda a: a > 1,
    ],
)
def test_validate_in_all_forms(method):
    definition = V1NodeDef(make(INPUTS, VALIDATE_INPUTS=method))
    assert definition.has("validate")
    assert definition.validated_names() == (frozenset({"a"}), False)
    assert call(definition, "validate", a=2, b=3) is True
    assert call(definition, "validate", a=1, b=3) is False


def test_validate_with_everything():
    definition = V1NodeDef(make(INPUTS, VALIDATE_INPUTS=classmethod(lambda cls, **k: sorted(k))))
    assert definition.validated_names() == (frozenset(), True)
    assert call(definition, "validate", a=2, b=3) == ["a", "b"]
    typed = V1NodeDef(make(INPUTS, VALIDATE_INPUTS=classmethod(lambda cls, input_types: True)))
    assert typed.validated_names() == (frozenset({"input_types"}), False)


def test_is_changed_and_lazy():
    definition = V1NodeDef(
        make(
            INPUTS,
            IS_CHANGED=classmethod(lambda cls, a, b: a + b),
            check_lazy_status=lambda self, a, b: ["a"],
        )
    )
    assert call(definition, "fingerprint", a=1, b=2) == 3
    assert call(definition, "check_lazy_status", obj=definition.create(), a=None, b=1) == ["a"]
    assert not V1NodeDef(make(INPUTS)).has("fingerprint")


async def test_async_function():
    async def run(self, **kwargs):
        return (1,)

    definition = V1NodeDef(make(run=run))
    assert definition.is_async
    assert await call(definition) == (1,)


def test_results():
    definition = V1NodeDef(make())
    assert definition.result((1,)).values == (1,)
    assert definition.result([1]).values == (1,)
    assert definition.result(None).values is None
    both = definition.result({"ui": {"images": [1], "text": "lone", "t": ("x",)}, "result": (2,)})
    assert (both.values, both.ui) == ((2,), {"images": [1], "text": ["lone"], "t": ["x"]})
    assert definition.result({"ui": {}}).values is None
    expanded = definition.result({"expand": {"1": {}}, "result": (["1", 0],)})
    assert (expanded.expand, expanded.values) == ({"1": {}}, (["1", 0],))
    blocker = io.ExecutionBlocker("why")
    assert definition.result((blocker, 1)).values == (blocker, 1)
    blocked = definition.result({"result": blocker})
    assert (blocked.blocked, blocked.block) == (True, "why")
    with pytest.raises(TypeError, match="node Node returned str"):
        definition.result("text")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"FUNCTION": None}, "FUNCTION is missing"),
        ({"FUNCTION": "walk"}, "'walk'"),
        ({"RETURN_TYPES": None}, "RETURN_TYPES is missing"),
        ({"INPUT_TYPES": None}, "INPUT_TYPES is missing"),
    ],
)
def test_malformed_classes(attributes, message):
    with pytest.raises(io.NodeDefinitionError, match=rf"node Node: .*{message}"):
        V1NodeDef(make(**attributes))


def test_input_types_that_raises():
    def boom(cls):
        raise FileNotFoundError("no such folder")

    definition = V1NodeDef(make(INPUT_TYPES=classmethod(boom)))
    with pytest.raises(
        io.NodeDefinitionError, match=r"Node\.INPUT_TYPES raised FileNotFoundError: no such folder"
    ):
        definition.input_types()
