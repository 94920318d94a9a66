"""Typed nodes: their schema, the attributes that V1 code looks at, and their results."""

import asyncio

import pytest
from comfyk import io, ui


class Base(io.ComfyNode):
    @classmethod
    def execute(cls, **kwargs):
        return io.NodeOutput(1, "a")


class Full(Base):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            "Full",
            display_name="A full node",
            category="test",
            description="Does it all.",
            inputs=[io.Image.Input("image"), io.Int.Input("n", optional=True)],
            outputs=[io.Int.Output("count", tooltip="how many"), io.String.Output(is_output_list=True)],
            is_output_node=True,
            is_experimental=True,
        )


def test_v1_attributes():
    assert Full.INPUT_TYPES() == {
        "required": {"image": ("IMAGE", {})},
        "optional": {"n": ("INT", {})},
        "hidden": {"prompt": ("PROMPT",), "extra_pnginfo": ("EXTRA_PNGINFO",)},
    }
    assert (Full.RETURN_TYPES, Full.RETURN_NAMES) == (("INT", "STRING"), ("count", "STRING"))
    assert (Full.OUTPUT_IS_LIST, Full.OUTPUT_TOOLTIPS) == ((False, True), ("how many", None))
    assert (Full.OUTPUT_NODE, Full.INPUT_IS_LIST, Full.EXPERIMENTAL) == (True, False, True)
    assert (Full.CATEGORY, Full.DESCRIPTION) == ("test", "Does it all.")
    assert getattr(Full, Full.FUNCTION)(image=None).args == (1, "a")


def test_a_subclass_has_its_own_schema():
    class Other(Full):
        @classmethod
        def define_schema(cls):
            return io.Schema("Other", outputs=[io.Mask.Output()])

    assert Full.RETURN_TYPES == ("INT", "STRING")
    assert Other.RETURN_TYPES == ("MASK",)


def test_static_rule():
    def schema(options, **flags):
        return io.Schema("S", inputs=[io.Combo.Input("c", options)], **flags)

    assert schema(("a", "b")).is_static
    assert schema(lambda: ["a"]).is_static
    assert not schema(["a", "b"]).is_static
    assert not schema([]).is_static
    assert schema(["a", "b"], static=True).is_static
    assert io.Schema("S", inputs=[io.Image.Input("i")]).is_static


def test_define_schema_is_called_anew_only_when_it_must_be():
    calls = []

    class Files(Base):
        @classmethod
        def define_schema(cls):
            calls.append(1)
            return io.Schema("Files", inputs=[io.Combo.Input("file", ["f" * len(calls)])])

    first, second = Files.INPUT_TYPES(), Files.INPUT_TYPES()
    assert first != second
    calls.clear()

    class Fixed(Files):
        @classmethod
        def define_schema(cls):
            calls.append(1)
            return io.Schema("Fixed", inputs=[io.Combo.Input("file", ("a", "b"))])

    assert Fixed.INPUT_TYPES() == Fixed.INPUT_TYPES()
    assert len(calls) == 1


def test_v1_form():
    inputs = [io.Combo.Input("c", ("a", "b"), default="b"), io.String.Input("s", default="x")]
    schema = io.Schema("S", inputs=inputs, is_output_node=True, v1_form=True)
    schema.finalize()
    assert schema.input_types() == {
        "required": {"c": (["a", "b"], {"default": "b"}), "s": ("STRING", {"default": "x"})}
    }


def test_a_shared_hidden_list_does_not_grow():
    shared = [io.Hidden.unique_id]
    schema = io.Schema("S", hidden=shared, is_output_node=True, is_api_node=True)
    schema.finalize()
    assert shared == [io.Hidden.unique_id]
    assert len(schema.hidden) == 6


def test_repeated_ids_are_refused():
    schema = io.Schema("S", inputs=[io.Image.Input("a"), io.Mask.Input("a")])
    with pytest.raises(ValueError, match="S: several inputs have the id a"):
        schema.validate()


def test_price_badge():
    depends = io.PriceBadgeDepends(widgets=["n", "size.width"])
    size = io.DynamicCombo.Input("size", [io.DynamicCombo.Option("w", [io.Int.Input("width")])])
    badge = io.PriceBadge("n * 2", depends)
    assert badge.as_dict([io.Int.Input("n"), size])["depends_on"]["widgets"] == [
        {"name": "n", "type": "INT"},
        {"name": "size.width", "type": "INT"},
    ]
    with pytest.raises(ValueError, match=r"size\.width"):
        badge.as_dict([io.Int.Input("n")])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "define_schema"),
        ({"define_schema": classmethod(lambda cls: io.Schema("X"))}, "execute"),
        ({"define_schema": lambda cls: None}, "@classmethod"),
        (
            {"define_schema": classmethod(lambda cls: None), "execute": classmethod(lambda cls: None)},
            r"io\.Schema",
        ),
    ],
)
def test_malformed_classes(body, message):
    with pytest.raises(io.NodeDefinitionError, match=message):
        type("Bad", (io.ComfyNode,), body).GET_SCHEMA()


def test_node_output_of():
    assert io.NodeOutput.of(None, "N").result is None
    assert io.NodeOutput.of((1, 2), "N").args == (1, 2)
    both = io.NodeOutput.of({"ui": {"text": ["a"]}, "result": (1,)}, "N")
    assert (both.ui, both.args, both[0]) == ({"text": ["a"]}, (1,), 1)
    silent = io.NodeOutput.of(io.ExecutionBlocker(None), "N")
    assert silent.blocked and silent.block_execution is None
    assert io.NodeOutput.of({"result": io.ExecutionBlocker("no")}, "N").block_execution == "no"
    for wrong in ("text", 3, {"other": 1}, {"result": "text"}):
        with pytest.raises(TypeError, match="node N"):
            io.NodeOutput.of(wrong, "N")


async def test_async_execute():
    class Slow(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema("Slow")

        @classmethod
        async def execute(cls):
            await asyncio.sleep(0)
            return (1,)

    assert Slow.FUNCTION == "EXECUTE_NORMALIZED_ASYNC"
    assert (await Slow.EXECUTE_NORMALIZED_ASYNC()).args == (1,)


def test_hidden_outside_of_a_call():
    assert Full.hidden.unique_id is None


async def test_extension():
    class Pack(io.ComfyExtension):
        async def get_node_list(self):
            return [Full]

    pack = Pack()
    await pack.on_load()
    assert await pack.get_node_list() == [Full]


def test_ui():
    saved = ui.SavedResult("a.png", "sub", io.FolderType.output)
    assert saved == {"filename": "a.png", "subfolder": "sub", "type": "output"}
    assert saved.type is io.FolderType.output
    assert ui.SavedImages([saved], is_animated=True).as_dict() == {"images": [saved], "animated": [True]}
    assert ui.SavedAudios([saved]).as_dict() == {"audio": [saved]}
    assert ui.PreviewText("hi").as_dict() == {"text": ["hi"]}
    assert ui.PreviewUI3D("m.glb", None).as_dict() == {"result": ["m.glb", None, None]}
