"""A prompt that cannot run is refused with every reason; one that can is converted as the field does it."""

from __future__ import annotations

import pytest
from comfyk import io
from comfyk.graph.validation import PromptError, check_shape, validate_prompt
from comfyk.nodes.registry import NodeRegistry


class Num(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            "Num",
            inputs=[
                io.Int.Input("i", default=1, min=0, max=10),
                io.Float.Input("f", default=0.5, min=-1.0, max=1.0, optional=True),
                io.String.Input("s", optional=True),
                io.Boolean.Input("b", optional=True),
                io.Combo.Input("c", options=["red", "green"], optional=True),
                io.MultiCombo.Input("m", options=["x", "y", "z"], optional=True),
            ],
            outputs=[io.Int.Output(), io.String.Output()],
        )

    @classmethod
    def execute(cls, **kwargs):
        return io.NodeOutput(1, "")


class Many:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"file": ([str(i) for i in range(30)],)}})
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"

    def run(self, file): ...


class Show:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"x": ("INT",)}, "optional": {"y": ("*",)}})
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    def run(self, x, y=None): ...


class Picky(Show):
    @classmethod
    def VALIDATE_INPUTS(cls, x):
        return True if x == 3 else "it must be three"


class PickyTypes(Show):
    @classmethod
    def VALIDATE_INPUTS(cls, input_types):
        return input_types.get("x") == "IMAGE" or "pictures only"


class PickyBoth(Show):
    @classmethod
    def VALIDATE_INPUTS(cls, x, input_types):
        return f"x is {x}, of type {input_types['x']}"


class Broken(Show):
    @classmethod
    def VALIDATE_INPUTS(cls, x):
        raise RuntimeError("my own check failed")


class AsyncPicky(Show):
    @classmethod
    async def VALIDATE_INPUTS(cls, x):
        return False


@pytest.fixture
def nodes():
    registry = NodeRegistry()
    for cls in (Num, Many, Show, Picky, PickyTypes, PickyBoth, Broken, AsyncPicky):
        registry.add(cls)
    return registry


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


async def errors_of(nodes, prompt, **options):
    with pytest.raises(PromptError) as error:
        await validate_prompt(prompt, nodes, **options)
    return error.value


async def only_error(nodes, prompt, node_id):
    failure = await errors_of(nodes, prompt)
    assert failure.error["type"] == "prompt_outputs_failed_validation"
    (found,) = failure.node_errors[node_id]["errors"]
    assert set(found) == {"type", "message", "details", "extra_info"}
    return found


def with_num(**inputs):
    return {"1": node("Num", **{"i": 1, **inputs}), "2": node("Show", x=["1", 0])}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"i": "7"}, {"i": 7}),
        ({"i": 7.9}, {"i": 7}),
        ({"i": True}, {"i": 1}),
        ({"f": "0.25"}, {"f": 0.25}),
        ({"f": 1}, {"f": 1.0}),
        ({"s": 12}, {"s": "12"}),
        ({"b": 0}, {"b": False}),
        ({"b": "yes"}, {"b": True}),
        ({"c": "red"}, {"c": "red"}),
        ({"m": {"__value__": ["x", "z"]}}, {"m": {"__value__": ["x", "z"]}}),
        ({"s": {"__value__": "text"}}, {"s": "text"}),
    ],
)
async def test_constants_are_converted_in_place(nodes, given, expected):
    prompt = with_num(**given)
    assert (await validate_prompt(prompt, nodes)).targets == ["2"]
    for name, value in expected.items():
        assert prompt["1"]["inputs"][name] == value
        assert type(prompt["1"]["inputs"][name]) is type(value)


@pytest.mark.parametrize(
    ("given", "type", "name"),
    [
        ({"i": "many"}, "invalid_input_type", "i"),
        ({"i": None}, "invalid_input_type", "i"),
        ({"i": {"a": 1}}, "invalid_input_type", "i"),
        ({"i": 1e999}, "invalid_input_type", "i"),
        ({"f": "nan"}, "invalid_input_type", "f"),
        ({"f": "inf"}, "invalid_input_type", "f"),
        ({"i": -1}, "value_smaller_than_min", "i"),
        ({"i": 11}, "value_bigger_than_max", "i"),
        ({"f": 1.5}, "value_bigger_than_max", "f"),
        ({"c": "blue"}, "value_not_in_list", "c"),
        ({"c": {"an": "object"}}, "value_not_in_list", "c"),
        ({"m": {"__value__": ["x", "w"]}}, "value_not_in_list", "m"),
        ({"i": []}, "bad_linked_input", "i"),
        ({"i": ["1"]}, "bad_linked_input", "i"),
        ({"i": ["2", 0, 0]}, "bad_linked_input", "i"),
        ({"i": [2, 0]}, "bad_linked_input", "i"),
        ({"i": ["nowhere", 0]}, "bad_linked_input", "i"),
    ],
)
async def test_a_bad_value_is_named(nodes, given, type, name):
    found = await only_error(nodes, with_num(**given), "1")
    assert found["type"] == type
    assert found["extra_info"]["input_name"] == name
    assert name in found["details"]


@pytest.mark.parametrize("slot", [2, -1, 0.5])
async def test_a_link_to_an_output_that_is_not_there(nodes, slot):
    found = await only_error(nodes, {"1": node("Num", i=1), "2": node("Show", x=["1", slot])}, "2")
    assert found["type"] == "bad_linked_input"


async def test_a_link_of_the_wrong_type(nodes):
    found = await only_error(nodes, {"1": node("Num", i=1), "2": node("Show", x=["1", 1])}, "2")
    assert found["type"] == "return_type_mismatch"
    assert found["details"] == "x, received_type(STRING) mismatch input_type(INT)"
    assert found["extra_info"]["linked_node"] == ["1", 1]


async def test_missing_inputs_are_all_reported_at_once(nodes):
    prompt = {
        "1": node("Num", c="blue", f=2, i="x"),
        "2": node("Show"),
        "3": node("Show", x=["1", 0]),
        "4": node("Many"),
        "5": node("Show", x=1, y=["4", 0]),
    }
    failure = await errors_of(nodes, prompt)
    assert {key: len(entry["errors"]) for key, entry in failure.node_errors.items()} == {
        "1": 3,
        "2": 1,
        "4": 1,
    }
    assert failure.node_errors["1"]["dependent_outputs"] == ["3"]
    assert failure.node_errors["4"]["dependent_outputs"] == ["5"]
    assert failure.node_errors["2"] == {
        "errors": [
            {
                "type": "required_input_missing",
                "message": "Required input is missing",
                "details": "x",
                "extra_info": {"input_name": "x"},
            }
        ],
        "dependent_outputs": ["2"],
        "class_type": "Show",
    }


async def test_outputs_that_can_run_are_kept(nodes):
    prompt = {"bad": node("Show"), "good": node("Show", x=3), "also": node("Show", x=1, y=["bad", 0])}
    prompt["also"]["inputs"]["y"] = 5
    valid = await validate_prompt(prompt, nodes)
    assert valid.targets == ["good", "also"]
    assert list(valid.node_errors) == ["bad"]


async def test_what_no_output_needs_is_not_looked_at(nodes):
    valid = await validate_prompt({"1": node("Num", i="bad"), "2": node("Show", x=1)}, nodes)
    assert valid.targets == ["2"] and not valid.node_errors


async def test_targets_limit_the_outputs(nodes):
    prompt = {"1": node("Show", x=1), "2": node("Show", x=1)}
    assert (await validate_prompt(prompt, nodes, targets=["2", "unknown"])).targets == ["2"]
    assert (await errors_of(nodes, prompt, targets=[])).error["type"] == "prompt_no_outputs"


async def test_a_long_list_of_options_is_not_repeated(nodes):
    prompt = {"1": node("Many", file="99"), "2": node("Show", x=1, y=["1", 0])}
    found = await only_error(nodes, prompt, "1")
    assert found["details"] == "file: '99' not in (list of length 30)"
    assert found["extra_info"]["input_config"] is None


@pytest.mark.parametrize("prompt", [{}, {"1": node("Num", i=1)}])
async def test_a_prompt_without_outputs(nodes, prompt):
    assert (await errors_of(nodes, prompt)).error["type"] == "prompt_no_outputs"


async def test_every_unknown_node_is_named(nodes):
    prompt = {
        "1": {"class_type": "Gone", "inputs": {}, "_meta": {"title": "My node"}},
        "2": {"inputs": {}},
        "3": node("Show", x=1),
        "4": {"class_type": ["Show"], "inputs": {}},
    }
    failure = await errors_of(nodes, prompt)
    assert failure.error["type"] == "missing_node_type"
    assert failure.error["message"] == "Node 'My node' not found. The custom node may not be installed."
    assert failure.error["extra_info"] == {"node_id": "1", "class_type": "Gone", "node_title": "My node"}
    assert list(failure.node_errors) == ["1", "2", "4"]


async def test_what_else_is_wrong_is_told_beside_an_unknown_class(nodes):
    prompt = {
        "1": {"class_type": "Gone", "inputs": {}},
        "2": node("Num", i="many"),
        "3": node("Show", x=["2", 0], y=["1", 0]),
    }
    failure = await errors_of(nodes, prompt)
    assert failure.error["type"] == "missing_node_type"
    kinds = {key: [found["type"] for found in entry["errors"]] for key, entry in failure.node_errors.items()}
    assert kinds == {"1": ["missing_node_type"], "2": ["invalid_input_type"]}
    assert failure.node_errors["1"]["dependent_outputs"] == ["3"]


async def test_null_is_no_option_of_a_combo(nodes):
    assert (await only_error(nodes, with_num(c=None), "1"))["type"] == "value_not_in_list"


async def test_a_cycle_is_refused_with_its_way(nodes):
    prompt = {
        "1": node("Show", x=1, y=["3", 0]),
        "2": node("Num", i=["3", 0]),
        "3": node("Num", i=["2", 0]),
        "4": node("Show", x=["2", 0]),
        "5": node("Show", x=1),
    }
    valid = await validate_prompt(prompt, nodes)
    assert valid.targets == ["5"]
    assert set(valid.node_errors) == {"2", "3"}
    for entry in valid.node_errors.values():
        (found,) = entry["errors"]
        assert found["type"] == "dependency_cycle"
        assert sorted(found["extra_info"]["cycle_nodes"]) == ["2", "3"]
        assert entry["dependent_outputs"] == ["1", "4"]


async def test_a_node_that_links_to_itself(nodes):
    found = await only_error(nodes, {"1": node("Num", i=["1", 0]), "2": node("Show", x=["1", 0])}, "1")
    assert found["type"] == "dependency_cycle"


async def test_authors_are_not_asked_about_values_that_come_with_the_job(nodes):
    for kind in ("Picky", "AsyncPicky", "Broken"):
        prompt = {"1": node("Num", i=4), "2": node(kind, x=["1", 0])}
        assert (await validate_prompt(prompt, nodes)).targets == ["2"]
    # Who asks for the types counts with links, and gets none for their values.
    prompt = {"1": node("Num", i=1), "2": node("PickyBoth", x=["1", 0])}
    found = await only_error(nodes, prompt, "2")
    assert "x is None, of type INT" in found["details"]


async def test_authors_may_check_values_and_types(nodes):
    assert (await validate_prompt({"1": node("Picky", x=3)}, nodes)).targets == ["1"]
    found = await only_error(nodes, {"1": node("Picky", x=4)}, "1")
    assert (found["type"], found["details"]) == ("custom_validation_failed", "x - it must be three")
    found = await only_error(nodes, {"1": node("AsyncPicky", x=4)}, "1")
    assert found["details"] == "x"
    found = await only_error(nodes, {"1": node("Num", i=1), "2": node("PickyTypes", x=["1", 0])}, "2")
    assert "pictures only" in found["details"]
    # One that asks for the types checks them itself: the mismatch is not an error.
    prompt = {"1": node("Many", file="3"), "2": node("PickyTypes", x=["1", 0])}
    assert (await validate_prompt(prompt, nodes)).targets == ["2"]


async def test_a_check_that_raises_is_an_error_without_its_traceback(nodes):
    found = await only_error(nodes, {"1": node("Broken", x=4)}, "1")
    assert found["type"] == "exception_during_validation"
    assert found["details"] == "my own check failed"
    assert "traceback" not in found["extra_info"]


async def test_errors_of_others_count_too(nodes):
    prompt = {"1": node("Num", i=1), "2": node("Show", x=["1", 0]), "3": node("Show", x=1)}
    extra = {"1": [{"type": "policy", "message": "No", "details": "", "extra_info": {}}], "not there": []}
    valid = await validate_prompt(prompt, nodes, extra_errors=[extra])
    assert valid.targets == ["3"]
    assert valid.node_errors["1"]["errors"][0]["type"] == "policy"


@pytest.mark.parametrize("prompt", [None, [], "text", 3, {"1": None}, {"1": []}, {"1": {"inputs": []}}])
def test_what_is_no_prompt_is_refused_at_the_edge(prompt):
    with pytest.raises(PromptError) as error:
        check_shape(prompt)
    assert error.value.error["type"] == "invalid_prompt"


async def test_a_chain_of_10000_nodes_validates(nodes):
    prompt = {"0": node("Num", i=1)}
    for index in range(1, 10_000):
        prompt[str(index)] = node("Num", i=[str(index - 1), 0])
    prompt["show"] = node("Show", x=["9999", 0])
    assert (await validate_prompt(prompt, nodes)).targets == ["show"]
    prompt["0"]["inputs"]["i"] = 99
    failure = await errors_of(nodes, prompt)
    assert failure.node_errors["0"]["dependent_outputs"] == ["show"]


def test_links_by_number_become_links_by_id():
    prompt = {
        "1": node("Num", i=1, m={"__value__": [1, 0]}),
        "2": node("Show", x=[1, 0], y=["1", 1]),
        "3": node("Show", x=[7, 0], y=[10**5000, 0]),
    }
    check_shape(prompt)
    assert prompt["1"]["inputs"]["m"] == {"__value__": [1, 0]}
    assert prompt["2"]["inputs"] == {"x": ["1", 0], "y": ["1", 1]}
    assert prompt["3"]["inputs"] == {"x": [7, 0], "y": [10**5000, 0]}


@pytest.mark.parametrize("class_type", [None, 5, ["Num"]])
async def test_the_class_in_an_error_is_a_text(nodes, class_type):
    failure = await errors_of(nodes, {"1": {"class_type": class_type, "inputs": {}}})
    assert failure.node_errors["1"]["class_type"] == ""


class Files:
    INPUT_TYPES = classmethod(
        lambda cls: {"required": {"file": (["a.bin", "sub/deep/b.bin", "win\\c.bin", "odd\\/d.bin"],)}}
    )
    RETURN_TYPES = ("INT",)
    FUNCTION = "run"

    def run(self, file): ...


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("sub\\deep\\b.bin", "sub/deep/b.bin"),
        ("sub/deep\\b.bin", "sub/deep/b.bin"),
        ("win/c.bin", "win\\c.bin"),
        ("win\\c.bin", "win\\c.bin"),
        ("odd\\/d.bin", "odd\\/d.bin"),
    ],
)
async def test_the_other_system_s_separator_is_the_same_name(nodes, given, meant):
    nodes.add(Files, name="Files")
    prompt = {"1": node("Files", file=given), "2": node("Show", x=["1", 0])}
    await validate_prompt(prompt, nodes)
    assert prompt["1"]["inputs"]["file"] == meant
    found = await only_error(nodes, {**prompt, "1": node("Files", file="sub\\other.bin")}, "1")
    assert found["type"] == "value_not_in_list" and "'sub\\\\other.bin' not in" in found["details"]
