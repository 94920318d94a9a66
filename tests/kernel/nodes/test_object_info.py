"""The entries of real nodes, the same for typed and V1, and the document that holds them."""

import json
import logging

import pytest
from comfyk import io
from comfyk.nodes.object_info import ObjectInfo, encode
from comfyk.nodes.registry import NodeRegistry, define

METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]
PIXELS = {"default": 512, "min": 0, "max": 16384, "step": 1}


def typed(schema):
    body = {"define_schema": classmethod(lambda cls: schema), "execute": classmethod(lambda cls, **k: None)}
    return type(schema.node_id, (io.ComfyNode,), body)


def v1(name, inputs, returns, **attributes):
    body = {"INPUT_TYPES": classmethod(lambda cls: inputs), "RETURN_TYPES": returns, "FUNCTION": "run"}
    return type(name, (), body | {"run": lambda self: None} | attributes)


def entry(node, **names):
    return json.loads(encode(define(node, **names).info()))


def common(**fields):
    return {
        "is_input_list": False,
        "output_matchtypes": None,
        "description": "",
        "python_module": "nodes",
        "output_node": False,
        "deprecated": False,
        "experimental": False,
        "dev_only": False,
        "api_node": False,
        "price_badge": None,
        "search_aliases": [],
        "has_intermediate_output": False,
    } | fields


FIELDS = [
    "input", "input_order", "is_input_list", "output", "output_is_list", "output_name", "output_tooltips",
    "output_matchtypes", "name", "display_name", "description", "python_module", "category", "output_node",
    "deprecated", "experimental", "dev_only", "api_node", "price_badge", "search_aliases",
    "essentials_category", "has_intermediate_output",
]  # fmt: skip

IMAGE_SCALE = common(
    input={
        "required": {
            "image": ["IMAGE"],
            "upscale_method": [METHODS],
            "width": ["INT", PIXELS],
            "height": ["INT", PIXELS],
            "crop": [["disabled", "center"]],
        }
    },
    input_order={"required": ["image", "upscale_method", "width", "height", "crop"]},
    output=["IMAGE"],
    output_is_list=[False],
    output_name=["IMAGE"],
    output_tooltips=[""],
    name="ImageScale",
    display_name="Upscale Image",
    category="image/upscaling",
    search_aliases=["resize", "resize image"],
    essentials_category="Image Tools",
)

SAVE_IMAGE = common(
    input={
        "required": {
            "images": ["IMAGE", {"tooltip": "what to save"}],
            "filename_prefix": ["STRING", {"default": "ComfyUI", "multiline": False}],
        },
        "hidden": {"prompt": ["PROMPT"], "extra_pnginfo": ["EXTRA_PNGINFO"]},
    },
    input_order={"required": ["images", "filename_prefix"], "hidden": ["prompt", "extra_pnginfo"]},
    output=["IMAGE"],
    output_is_list=[False],
    output_name=["images"],
    output_tooltips=["the same"],
    name="SaveImage",
    display_name="Save Image",
    category="image",
    description="Writes pictures.",
    output_node=True,
    essentials_category="Basics",
)


def written_out(entry):
    """The entry of a V1 node, whose inputs stand as the author wrote them, with what typed nodes say besides."""
    groups = entry["input"]
    for name, kind in groups.get("hidden", {}).items():
        groups["hidden"][name] = kind if isinstance(kind, list) else [kind]
    for group in ("required", "optional"):
        for name, spec in groups.get(group, {}).items():
            groups[group][name] = spec if len(spec) > 1 else [*spec, {}]
    return entry


def test_image_scale_in_both_forms():
    pixels = {"default": 512, "min": 0, "max": 16384, "step": 1}
    schema = io.Schema(
        "ImageScale",
        display_name="Upscale Image",
        category="image/upscaling",
        inputs=[
            io.Image.Input("image"),
            io.Combo.Input("upscale_method", METHODS),
            io.Int.Input("width", **pixels),
            io.Int.Input("height", **pixels),
            io.Combo.Input("crop", ("disabled", "center")),
        ],
        outputs=[io.Image.Output()],
        search_aliases=["resize", "resize image"],
        essentials_category="Image Tools",
        v1_form=True,
    )
    inputs = {
        "required": {
            "image": ("IMAGE",),
            "upscale_method": (METHODS,),
            "width": ("INT", PIXELS),
            "height": ("INT", PIXELS),
            "crop": (["disabled", "center"],),
        }
    }
    old = v1(
        "ImageScale",
        inputs,
        ("IMAGE",),
        CATEGORY="image/upscaling",
        SEARCH_ALIASES=["resize", "resize image"],
        ESSENTIALS_CATEGORY="Image Tools",
    )
    as_written = entry(old, display_name="Upscale Image")
    assert as_written["input"]["required"]["image"] == ["IMAGE"]
    assert entry(typed(schema)) == as_written == IMAGE_SCALE
    assert list(entry(typed(schema))) == list(entry(old)) == FIELDS


def test_save_image_in_both_forms():
    schema = io.Schema(
        "SaveImage",
        display_name="Save Image",
        category="image",
        description="Writes pictures.",
        inputs=[
            io.Image.Input("images", tooltip="what to save"),
            io.String.Input("filename_prefix", default="ComfyUI"),
        ],
        outputs=[io.Image.Output("images", tooltip="the same")],
        is_output_node=True,
        essentials_category="Basics",
    )
    inputs = {
        "required": {
            "images": ("IMAGE", {"tooltip": "what to save"}),
            "filename_prefix": ("STRING", {"default": "ComfyUI", "multiline": False}),
        },
        "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
    }
    old = v1(
        "SaveImage",
        inputs,
        ("IMAGE",),
        CATEGORY="image",
        DESCRIPTION="Writes pictures.",
        RETURN_NAMES=("images",),
        OUTPUT_TOOLTIPS=("the same",),
        OUTPUT_NODE=True,
        ESSENTIALS_CATEGORY="Basics",
    )
    as_written = entry(old, display_name="Save Image")
    assert as_written["input"]["hidden"] == inputs["hidden"]
    assert entry(typed(schema)) == written_out(as_written) == SAVE_IMAGE


def test_flags_in_both_forms():
    schema = io.Schema(
        "Flags",
        outputs=[io.Int.Output(is_output_list=True)],
        inputs=[io.Int.Input("n", optional=True)],
        is_input_list=True,
        is_deprecated=True,
        is_experimental=True,
        is_dev_only=True,
        has_intermediate_output=True,
    )
    old = v1(
        "Flags",
        {"optional": {"n": ("INT",)}},
        ("INT",),
        OUTPUT_IS_LIST=(True,),
        INPUT_IS_LIST=True,
        DEPRECATED=True,
        EXPERIMENTAL=True,
        DEV_ONLY=True,
        HAS_INTERMEDIATE_OUTPUT=True,
    )
    assert entry(typed(schema)) == written_out(entry(old))


def test_a_combo_in_both_of_its_spellings():
    combo = {"multiselect": False, "options": ["a"], "default": "a"}
    for v1_form, spelled in ((False, ("COMBO", combo)), (True, (["a"], {"default": "a"}))):
        schema = io.Schema("C", inputs=[io.Combo.Input("c", ["a"], default="a")], v1_form=v1_form)
        assert entry(typed(schema)) == entry(v1("C", {"required": {"c": spelled}}, ()))


TEMPLATE = io.MatchType.Template("switch")


@pytest.mark.parametrize(
    ("schema", "inputs", "outputs"),
    [
        (
            io.Schema(
                "BatchImagesNode",
                inputs=[
                    io.Autogrow.Input(
                        "images",
                        io.Autogrow.TemplatePrefix(io.Image.Input("image"), prefix="image", min=1, max=50),
                    )
                ],
                outputs=[io.Image.Output()],
            ),
            {
                "images": [
                    "COMFY_AUTOGROW_V3",
                    {
                        "template": {
                            "input": {"required": {"image": ["IMAGE", {}]}},
                            "prefix": "image",
                            "min": 1,
                            "max": 50,
                        }
                    },
                ]
            },
            (["IMAGE"], ["IMAGE"], [False], None),
        ),
        (
            io.Schema(
                "SeedVR2TemporalChunk",
                inputs=[
                    io.Latent.Input("latent"),
                    io.Int.Input("temporal_overlap", default=0, min=0, max=16384),
                    io.DynamicCombo.Input(
                        "chunking_mode",
                        options=[
                            io.DynamicCombo.Option("auto", []),
                            io.DynamicCombo.Option(
                                "manual",
                                [io.Int.Input("frames_per_chunk", default=21, min=1, max=16384, step=4)],
                            ),
                        ],
                    ),
                ],
                outputs=[
                    io.Latent.Output(display_name="latents", is_output_list=True),
                    io.Int.Output(display_name="temporal_overlap"),
                ],
            ),
            {
                "latent": ["LATENT", {}],
                "temporal_overlap": ["INT", {"default": 0, "min": 0, "max": 16384}],
                "chunking_mode": [
                    "COMFY_DYNAMICCOMBO_V3",
                    {
                        "options": [
                            {"key": "auto", "inputs": {"required": {}}},
                            {
                                "key": "manual",
                                "inputs": {
                                    "required": {
                                        "frames_per_chunk": [
                                            "INT",
                                            {"default": 21, "min": 1, "max": 16384, "step": 4},
                                        ]
                                    }
                                },
                            },
                        ]
                    },
                ],
            },
            (["LATENT", "INT"], ["latents", "temporal_overlap"], [True, False], None),
        ),
        (
            io.Schema(
                "ComfySwitchNode",
                inputs=[
                    io.Boolean.Input("switch"),
                    io.MatchType.Input("on_false", template=TEMPLATE, lazy=True),
                    io.MatchType.Input("on_true", template=TEMPLATE, lazy=True),
                ],
                outputs=[io.MatchType.Output(template=TEMPLATE, display_name="output")],
            ),
            {
                "switch": ["BOOLEAN", {}],
                "on_false": [
                    "COMFY_MATCHTYPE_V3",
                    {"lazy": True, "template": {"template_id": "switch", "allowed_types": "*"}},
                ],
                "on_true": [
                    "COMFY_MATCHTYPE_V3",
                    {"lazy": True, "template": {"template_id": "switch", "allowed_types": "*"}},
                ],
            },
            (["COMFY_MATCHTYPE_V3"], ["output"], [False], ["switch"]),
        ),
        (
            io.Schema(
                "ResizeImageMaskNode",
                inputs=[
                    io.MatchType.Input("input", io.MatchType.Template("input_type", [io.Image, io.Mask])),
                    io.MultiType.Input("match", [io.Image, io.Mask]),
                    io.Combo.Input("scale_method", METHODS, default="area"),
                ],
            ),
            {
                "input": [
                    "COMFY_MATCHTYPE_V3",
                    {"template": {"template_id": "input_type", "allowed_types": "IMAGE,MASK"}},
                ],
                "match": ["IMAGE,MASK", {}],
                "scale_method": ["COMBO", {"default": "area", "multiselect": False, "options": METHODS}],
            },
            ([], [], [], None),
        ),
    ],
    ids=lambda value: value.node_id if isinstance(value, io.Schema) else "",
)
def test_real_dynamic_nodes(schema, inputs, outputs):
    made = entry(typed(schema))
    assert made["input"] == {"required": inputs}
    assert (made["output"], made["output_name"], made["output_is_list"], made["output_matchtypes"]) == outputs
    assert made["display_name"] == schema.node_id


@pytest.fixture
def registry():
    return NodeRegistry()


def test_document(registry):
    registry.add(typed(io.Schema("B")))
    registry.add(v1("A", {"required": {}}, ("INT",)))
    info = ObjectInfo(registry)
    body, etag = info.all()
    assert list(json.loads(body)) == ["B", "A"]
    assert json.loads(body)["A"] == info.one("A")
    assert etag.startswith('"') and info.all() == (body, etag)
    assert info.all()[0] is body
    assert info.one("nobody") is None
    assert ObjectInfo(NodeRegistry()).all()[0] == b"{}"


def test_document_follows_the_registry(registry):
    info = ObjectInfo(registry)
    registry.add(typed(io.Schema("A")), source="pack")
    first = info.all()
    registry.add(typed(io.Schema("B")), source="other")
    assert list(json.loads(info.all()[0])) == ["A", "B"]
    registry.remove_source("other")
    assert info.all() == first


def test_document_follows_files(registry):
    files, listed, inputs = ["a"], ["x"], {"required": {"f": (["p"],)}}
    registry.add(typed(io.Schema("Live", inputs=[io.Combo.Input("f", lambda: files)])))

    class Eager(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema("Eager", inputs=[io.Combo.Input("f", list(listed))])

        @classmethod
        def execute(cls, f):
            return None

    registry.add(Eager)
    registry.add(v1("Old", inputs, ()))
    info = ObjectInfo(registry)
    tags = [info.all()[1]]
    for change in (files, listed, inputs["required"]["f"][0]):
        change.append("new")
        body, tag = info.all()
        tags.append(tag)
    assert len(set(tags)) == 4
    made = {name: node["input"]["required"]["f"] for name, node in json.loads(body).items()}
    assert made["Live"][1]["options"] == ["a", "new"]
    assert made["Eager"][1]["options"] == ["x", "new"]
    assert made["Old"][0] == ["p", "new"]


def test_static_nodes_are_not_asked_again(registry):
    calls = []

    class Static(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            calls.append(1)
            return io.Schema("Static", inputs=[io.Combo.Input("f", ("a",))])

        @classmethod
        def execute(cls, f):
            return None

    registry.add(Static)
    info = ObjectInfo(registry)
    info.all()
    info.all()
    assert len(calls) == 1


def test_a_broken_node_is_left_out_and_logged_once(registry, caplog):
    inputs = {}

    def input_types(cls):
        return {"required": {"a": (inputs["a"],)}}

    registry.add(v1("Good", {"required": {}}, ()))
    registry.add(v1("Bad", {}, (), INPUT_TYPES=classmethod(input_types)))
    info = ObjectInfo(registry)
    with caplog.at_level(logging.ERROR):
        assert list(json.loads(info.all()[0])) == ["Good"]
        info.all()
    assert sum("Bad" in record.getMessage() for record in caplog.records) == 1
    assert info.one("Bad") is None
    inputs["a"] = "INT"
    assert list(json.loads(info.all()[0])) == ["Good", "Bad"]


class Odd:
    def __str__(self):
        return "odd"


def test_json_is_strict():
    value = {"nan": float("nan"), "inf": (float("inf"), 2**64 - 1), "odd": Odd(), 3: {"a"}}
    assert json.loads(encode(value), parse_constant=pytest.fail) == {
        "nan": None,
        "inf": [None, 2**64 - 1],
        "odd": "odd",
        "3": ["a"],
    }
    assert json.loads(encode(value | {"file": "caf\udce9.png"}), parse_constant=pytest.fail) == {
        "nan": None,
        "inf": [None, 2**64 - 1],
        "odd": "odd",
        "3": ["a"],
        "file": "caf\udce9.png",
    }
