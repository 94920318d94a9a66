"""Dynamic inputs, unfolded for the values of a prompt."""

from comfyk import io
from comfyk.io.base import input_dict
from comfyk.io.expansion import expand, nest
from hypothesis import given
from hypothesis import strategies as st

LINK = ["1", 0]
GROW = io.Autogrow.Input("images", io.Autogrow.TemplatePrefix(io.Image.Input("image"), "image", min=2, max=4))
SIZE = io.DynamicCombo.Input(
    "size",
    [
        io.DynamicCombo.Option("width", [io.Int.Input("width"), io.Mask.Input("mask", optional=True)]),
        io.DynamicCombo.Option(
            "deep",
            [
                io.DynamicCombo.Input("how", [io.DynamicCombo.Option("by", [io.Float.Input("factor")])]),
                GROW,
            ],
        ),
        io.DynamicCombo.Option("none", []),
    ],
)


def unfold(inputs, values):
    expansion = expand(input_dict(inputs), values)
    required = {name: needed for name, (needed, _) in expansion.inputs.items()}
    return required, nest(values, expansion.paths, expansion.empty)


def test_autogrow_has_what_is_required_or_given():
    required, arguments = unfold([GROW], {"images.image0": "a", "images.image3": "d", "images.image9": "?"})
    assert required == {"images.image0": True, "images.image1": True, "images.image3": False}
    assert arguments["images"] == {"image0": "a", "image3": "d"}


def test_autogrow_with_nothing_given_is_an_empty_dict():
    optional = io.Autogrow.TemplatePrefix(io.Image.Input("image", optional=True), "image", min=1, max=3)
    required, arguments = unfold([io.Autogrow.Input("images", optional)], {})
    assert required == {}
    assert arguments == {"images": {}}


def test_autogrow_by_names_with_a_widget():
    grow = io.Autogrow.Input("values", io.Autogrow.TemplateNames(io.Int.Input("v"), ["a", "b"], min=1))
    assert grow.spec()[1]["template"] == {
        "input": {"required": {"v": ("INT", {"forceInput": True})}},
        "names": ["a", "b"],
        "min": 1,
    }
    assert unfold([grow], {"values.b": 2})[0] == {"values.a": True, "values.b": False}


def test_dynamic_combo():
    required, arguments = unfold([SIZE], {"size": "width", "size.width": 3})
    assert required == {"size": True, "size.width": True, "size.mask": False}
    assert arguments == {"size": {"size": "width", "width": 3, "mask": None}}


def test_dynamic_combo_inside_a_dynamic_combo():
    values = {"size": "deep", "size.how": "by", "size.how.factor": 2.0, "size.images.image0": "a"}
    required, arguments = unfold([SIZE], values)
    assert required["size.how.factor"] and required["size.images.image1"]
    assert arguments == {
        "size": {"size": "deep", "how": {"how": "by", "factor": 2.0}, "images": {"image0": "a"}}
    }


def test_a_missing_or_unknown_choice_stays_visible():
    assert unfold([SIZE], {})[0] == {"size": True}
    assert unfold([SIZE], {"size": "other"})[0] == {"size": True}


def test_dynamic_slot():
    slot = io.DynamicSlot.Input(io.Image.Input("image"), [io.Float.Input("strength")])
    assert slot.spec() == (
        "COMFY_DYNAMICSLOT_V3",
        {"slotType": "IMAGE", "inputs": {"required": {"strength": ("FLOAT", {})}}},
    )
    assert unfold([slot], {}) == ({}, {})
    expansion = expand(input_dict([slot]), {"image": LINK, "image.strength": 1.0})
    assert expansion.inputs["image"][1][0] == "IMAGE"
    assert nest({"image": "pixels", "image.strength": 1.0}, expansion.paths, expansion.empty) == {
        "image": {"image": "pixels", "strength": 1.0}
    }


STEPS = st.text("abc", min_size=1, max_size=2)


@given(st.dictionaries(st.lists(STEPS, min_size=1, max_size=3).map(tuple), st.integers(), max_size=8))
def test_nesting_keeps_every_value(tree):
    # a name cannot be both a value and a dict of values
    leaves = {
        path: v for path, v in tree.items() if not any(o != path and o[: len(path)] == path for o in tree)
    }
    flat = {".".join(path): value for path, value in leaves.items()}
    nested = nest(flat, {name: name for name in flat}, set())
    for path, value in leaves.items():
        inside = nested
        for step in path:
            inside = inside[step]
        assert inside == value
