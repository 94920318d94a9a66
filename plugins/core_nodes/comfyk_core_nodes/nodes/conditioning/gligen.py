"""Nodes for GLIGEN: texts in boxes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfyk import io

from comfyk_core_nodes.families.missing_parts import present
from comfyk_core_nodes.nodes.limits import MAX_RESOLUTION
from comfyk_core_nodes.nodes.loaders.model_files import ModelFileNode, PromptNode, model_names, model_path

if TYPE_CHECKING:
    from comfyk_core_nodes.memory.patcher import ModelPatcher
    from comfyk_core_nodes.sampling.conditioning import Conditioning
    from comfyk_core_nodes.text.clip import CLIP


class GLIGENLoader(ModelFileNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GLIGENLoader",
            display_name="Load GLIGEN Model",
            category="model/loaders",
            description="Loads a GLIGEN model.",
            v1_form=True,
            inputs=[io.Combo.Input("gligen_name", options=model_names("gligen"))],
            outputs=[io.Gligen.Output()],
        )

    @classmethod
    def execute(cls, gligen_name: str) -> io.NodeOutput:
        from comfyk_core_nodes.control.gligen import load_gligen

        return io.NodeOutput(load_gligen(model_path("gligen", gligen_name)))


class GLIGENTextBoxApply(PromptNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GLIGENTextBoxApply",
            display_name="Apply GLIGEN Text Box",
            category="model/conditioning/gligen",
            description="Has a text drawn within a box of the picture.",
            v1_form=True,
            inputs=[
                io.Conditioning.Input("conditioning_to"),
                io.Clip.Input("clip"),
                io.Gligen.Input("gligen_textbox_model"),
                io.String.Input("text", multiline=True, dynamic_prompts=True),
                io.Int.Input("width", default=64, min=8, max=MAX_RESOLUTION, step=8, tooltip="In pixels."),
                io.Int.Input("height", default=64, min=8, max=MAX_RESOLUTION, step=8, tooltip="In pixels."),
                io.Int.Input(
                    "x", default=0, min=0, max=MAX_RESOLUTION, step=8, tooltip="Pixels from the left."
                ),
                io.Int.Input(
                    "y", default=0, min=0, max=MAX_RESOLUTION, step=8, tooltip="Pixels from the top."
                ),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(
        cls,
        conditioning_to: Conditioning,
        clip: CLIP,
        gligen_textbox_model: ModelPatcher,
        text: str,
        width: int,
        height: int,
        x: int,
        y: int,
    ) -> io.NodeOutput:
        from comfyk_core_nodes.conditioning.edit import add_gligen_box

        clip = present(clip, "CLIP")
        _, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled="unprojected")
        edited = add_gligen_box(conditioning_to, gligen_textbox_model, pooled, width, height, x, y)
        return io.NodeOutput(edited)


NODES = (
    GLIGENLoader,
    GLIGENTextBoxApply,
)
