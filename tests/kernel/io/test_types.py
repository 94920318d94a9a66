"""Io types: names, options on the wire, declarations that cannot work."""

from enum import Enum

import pytest
from comfyk import io


@pytest.mark.parametrize(
    ("made", "spec"),
    [
        (io.Image.Input("x"), ("IMAGE", {})),
        (io.Load3DAnimation.Input("x"), ("LOAD_3D_ANIMATION", {})),
        (
            io.AnyType.Input("x", optional=True, lazy=True, raw_link=True),
            ("*", {"lazy": True, "rawLink": True}),
        ),
        (
            io.Custom("SOUND").Input("x", tooltip="t", extra_dict={"a": 1}),
            ("SOUND", {"tooltip": "t", "a": 1}),
        ),
        (
            io.Int.Input("x", default=0, min=0, max=9, control_after_generate=io.ControlAfterGenerate.fixed),
            ("INT", {"default": 0, "min": 0, "max": 9, "control_after_generate": "fixed"}),
        ),
        (
            io.Float.Input(
                "x", default=1.0, step=0.1, round=0.01, display_mode=io.NumberDisplay.gradient_slider
            ),
            ("FLOAT", {"default": 1.0, "step": 0.1, "round": 0.01, "display": "gradientslider"}),
        ),
        (
            io.String.Input("x", default="", dynamic_prompts=True, force_input=True),
            ("STRING", {"default": "", "forceInput": True, "multiline": False, "dynamicPrompts": True}),
        ),
        (
            io.Boolean.Input("x", label_on="y", label_off="n"),
            ("BOOLEAN", {"label_on": "y", "label_off": "n"}),
        ),
        (
            io.Combo.Input("x", ["a"], upload=io.UploadType.image, image_folder=io.FolderType.input),
            (
                "COMBO",
                {"multiselect": False, "options": ["a"], "image_upload": True, "image_folder": "input"},
            ),
        ),
        (
            io.Combo.Input("x", remote=io.RemoteOptions("/r", True, timeout=5)),
            (
                "COMBO",
                {
                    "multiselect": False,
                    "remote": {
                        "route": "/r",
                        "refresh_button": True,
                        "control_after_refresh": "first",
                        "timeout": 5,
                    },
                },
            ),
        ),
        (
            io.MultiCombo.Input("x", ["a", "b"], default=["a"], chip=True),
            (
                "COMBO",
                {
                    "default": ["a"],
                    "multiselect": True,
                    "options": ["a", "b"],
                    "multi_select": {"chip": True},
                },
            ),
        ),
        (io.Color.Input("x"), ("COLOR", {"default": "#ffffff", "socketless": True})),
        (io.Colors.Input("x"), ("COLORS", {"default": [], "socketless": True})),
        (
            io.Curve.Input("x"),
            (
                "CURVE",
                {
                    "default": {"points": [[0.0, 0.0], [1.0, 1.0]], "interpolation": "monotone_cubic"},
                    "socketless": True,
                },
            ),
        ),
        (
            io.BoundingBox.Input("x", component="c"),
            (
                "BOUNDING_BOX",
                {
                    "default": {"x": 0, "y": 0, "width": 512, "height": 512},
                    "socketless": True,
                    "component": "c",
                },
            ),
        ),
        (
            io.MultiType.Input(io.Int.Input("x", default=3), types=[io.Float, io.Int]),
            ("INT,FLOAT", {"default": 3, "widgetType": "INT"}),
        ),
        (io.MultiType.Input("x", types=[io.Image, io.Mask, io.Image]), ("IMAGE,MASK", {})),
    ],
)
def test_spec_on_the_wire(made, spec):
    assert made.spec() == spec


def test_each_type_has_an_input_and_output_of_its_own():
    assert io.Load3D.Input("x").io_type == "LOAD_3D"
    assert io.Load3DAnimation.Input("x").io_type == "LOAD_3D_ANIMATION"
    assert io.Image.Input.Parent is io.Image
    assert io.Mask.Output().io_type == "MASK"
    assert isinstance(io.MultiCombo.Input("x"), io.Combo.Input)
    assert io.ComfyTypeIO.Input is io.Input


def test_comfytype_accepts_a_plain_class():
    @io.comfytype(io_type="POSE")
    class Pose:
        Type = dict

    assert issubclass(Pose, io.ComfyTypeIO)
    assert Pose.Output("p").get_io_type() == "POSE"


class Mode(Enum):
    FAST = "fast"
    GOOD = "good"


def test_combo_of_an_enum():
    assert io.Combo.Input("x", Mode, default=Mode.GOOD).spec()[1] == {
        "default": "good",
        "multiselect": False,
        "options": ["fast", "good"],
    }


def test_combo_options_may_be_a_function():
    files = ["a"]
    combo = io.Combo.Input("x", lambda: files)
    files.append("b")
    assert combo.is_live
    assert combo.spec()[1]["options"] == ["a", "b"]


@pytest.mark.parametrize(
    "declare",
    [
        lambda: io.Autogrow.TemplatePrefix(io.Image.Input("x"), "x", min=-1),
        lambda: io.Autogrow.TemplatePrefix(io.Image.Input("x"), "x", max=101),
        lambda: io.Autogrow.TemplatePrefix(io.DynamicCombo.Input("x", []), "x"),
        lambda: io.DynamicSlot.Input(io.DynamicCombo.Input("x", []), []),
        lambda: io.MatchType.Template("t", [int]),
    ],
)
def test_declarations_that_cannot_work(declare):
    with pytest.raises(ValueError, match=r"autogrow|dynamic|io type"):
        declare()


def test_hidden_holder():
    holder = io.HiddenHolder.from_dict({"UNIQUE_ID": "7", io.Hidden.prompt: {"1": {}}})
    assert (holder.unique_id, holder.prompt, holder.extra_pnginfo, holder.something) == (
        "7",
        {"1": {}},
        None,
        None,
    )
