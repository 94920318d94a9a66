"""Nodes that hold one value, to be set once and used in many places."""

from __future__ import annotations

from comfyk import io

from comfyk_core_nodes.nodes.limits import MAX_RESOLUTION

LARGEST = 2**63 - 1
_MODULE = "comfy_extras.nodes_primitive"
_CATEGORY = "utilities/primitive"


class PrimitiveString(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PrimitiveString",
            display_name="Text",
            category=_CATEGORY,
            description="A line of text.",
            search_aliases=["text", "string", "text box", "prompt"],
            inputs=[io.String.Input("value")],
            outputs=[io.String.Output()],
        )

    @classmethod
    def execute(cls, value: str) -> io.NodeOutput:
        return io.NodeOutput(value)


class PrimitiveStringMultiline(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PrimitiveStringMultiline",
            display_name="Text (Multiline)",
            category=_CATEGORY,
            description="Text of any number of lines.",
            search_aliases=["text", "string", "text multiline", "string multiline", "text box", "prompt"],
            essentials_category="Basics",
            inputs=[io.String.Input("value", multiline=True)],
            outputs=[io.String.Output()],
        )

    @classmethod
    def execute(cls, value: str) -> io.NodeOutput:
        return io.NodeOutput(value)


class PrimitiveInt(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PrimitiveInt",
            display_name="Int",
            category=_CATEGORY,
            description="A whole number.",
            inputs=[
                io.Int.Input(
                    "value", min=-LARGEST, max=LARGEST, control_after_generate=io.ControlAfterGenerate.fixed
                )
            ],
            outputs=[io.Int.Output()],
        )

    @classmethod
    def execute(cls, value: int) -> io.NodeOutput:
        return io.NodeOutput(value)


class PrimitiveFloat(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PrimitiveFloat",
            display_name="Float",
            category=_CATEGORY,
            description="A number.",
            inputs=[io.Float.Input("value", min=-LARGEST, max=LARGEST, step=0.1)],
            outputs=[io.Float.Output()],
        )

    @classmethod
    def execute(cls, value: float) -> io.NodeOutput:
        return io.NodeOutput(value)


class PrimitiveBoolean(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PrimitiveBoolean",
            display_name="Boolean",
            category=_CATEGORY,
            description="True or false.",
            inputs=[io.Boolean.Input("value")],
            outputs=[io.Boolean.Output()],
        )

    @classmethod
    def execute(cls, value: bool) -> io.NodeOutput:
        return io.NodeOutput(value)


class PrimitiveBoundingBox(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_images"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PrimitiveBoundingBox",
            display_name="Bounding Box",
            category=_CATEGORY,
            description="A rectangle, in pixels from the top left.",
            inputs=[
                io.Int.Input("x", default=0, min=0, max=MAX_RESOLUTION),
                io.Int.Input("y", default=0, min=0, max=MAX_RESOLUTION),
                io.Int.Input("width", default=512, min=1, max=MAX_RESOLUTION),
                io.Int.Input("height", default=512, min=1, max=MAX_RESOLUTION),
            ],
            outputs=[io.BoundingBox.Output()],
        )

    @classmethod
    def execute(cls, x: int, y: int, width: int, height: int) -> io.NodeOutput:
        return io.NodeOutput({"x": x, "y": y, "width": width, "height": height})


NODES = (
    PrimitiveString,
    PrimitiveStringMultiline,
    PrimitiveInt,
    PrimitiveFloat,
    PrimitiveBoolean,
    PrimitiveBoundingBox,
)
