"""Nodes for pictures as prompts: CLIP vision models, style models, unCLIP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfyk import io

from comfyk_core_nodes.families.missing_parts import present
from comfyk_core_nodes.nodes.loaders.model_files import ModelFileNode, model_names, model_path

if TYPE_CHECKING:
    from torch import Tensor

    from comfyk_core_nodes.sampling.conditioning import Conditioning
    from comfyk_core_nodes.vision.clip_vision import ClipVisionModel, ClipVisionOutput
    from comfyk_core_nodes.vision.style import StyleModel


class CLIPVisionLoader(ModelFileNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CLIPVisionLoader",
            display_name="Load CLIP Vision",
            category="model/loaders",
            description="Loads a CLIP vision model.",
            v1_form=True,
            inputs=[io.Combo.Input("clip_name", options=model_names("clip_vision"))],
            outputs=[io.ClipVision.Output()],
        )

    @classmethod
    def execute(cls, clip_name: str) -> io.NodeOutput:
        from comfyk_core_nodes.vision.clip_vision import load_clip_vision

        return io.NodeOutput(load_clip_vision(model_path("clip_vision", clip_name)))


class CLIPVisionEncode(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CLIPVisionEncode",
            display_name="CLIP Vision Encode",
            category="model/conditioning",
            description="What a CLIP vision model sees in pictures.",
            v1_form=True,
            inputs=[
                io.ClipVision.Input("clip_vision"),
                io.Image.Input("image"),
                io.Combo.Input(
                    "crop",
                    options=("center", "none"),
                    tooltip="Cut the picture to a square around its middle, or squeeze it.",
                ),
            ],
            outputs=[io.ClipVisionOutput.Output()],
        )

    @classmethod
    def execute(cls, clip_vision: ClipVisionModel | None, image: Tensor, crop: str) -> io.NodeOutput:
        clip_vision = present(clip_vision, "CLIP_VISION")
        return io.NodeOutput(clip_vision.encode_image(image, crop=crop == "center"))


class StyleModelLoader(ModelFileNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StyleModelLoader",
            display_name="Load Style Model",
            category="model/loaders",
            description="Loads a style model.",
            v1_form=True,
            inputs=[io.Combo.Input("style_model_name", options=model_names("style_models"))],
            outputs=[io.StyleModel.Output()],
        )

    @classmethod
    def execute(cls, style_model_name: str) -> io.NodeOutput:
        from comfyk_core_nodes.vision.style import load_style_model

        return io.NodeOutput(load_style_model(model_path("style_models", style_model_name)))


class StyleModelApply(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StyleModelApply",
            display_name="Apply Style Model",
            category="model/conditioning",
            description="Puts what was seen in a picture behind a prompt, for its style to be followed.",
            search_aliases=["style transfer"],
            v1_form=True,
            inputs=[
                io.Conditioning.Input("conditioning"),
                io.StyleModel.Input("style_model"),
                io.ClipVisionOutput.Input("clip_vision_output"),
                io.Float.Input("strength", default=1.0, min=0.0, max=10.0, step=0.001),
                io.Combo.Input(
                    "strength_type",
                    options=("multiply", "attn_bias"),
                    tooltip=(
                        "multiply scales what the style model gives, attn_bias how much it is attended to."
                    ),
                ),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(
        cls,
        conditioning: Conditioning,
        style_model: StyleModel,
        clip_vision_output: ClipVisionOutput,
        strength: float,
        strength_type: str,
    ) -> io.NodeOutput:
        from comfyk_core_nodes.conditioning.style import add_style

        tokens = style_model.get_cond(clip_vision_output)
        return io.NodeOutput(add_style(conditioning, tokens, strength, strength_type))


class unCLIPConditioning(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="unCLIPConditioning",
            display_name="unCLIPConditioning",
            category="model/conditioning",
            description="Gives an unCLIP model a picture to vary.",
            v1_form=True,
            inputs=[
                io.Conditioning.Input("conditioning"),
                io.ClipVisionOutput.Input("clip_vision_output"),
                io.Float.Input("strength", default=1.0, min=-10.0, max=10.0, step=0.01),
                io.Float.Input(
                    "noise_augmentation",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How far the result may go from the picture, from 0 to 1.",
                ),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(
        cls,
        conditioning: Conditioning,
        clip_vision_output: ClipVisionOutput,
        strength: float,
        noise_augmentation: float,
    ) -> io.NodeOutput:
        from comfyk_core_nodes.conditioning.edit import add_unclip

        return io.NodeOutput(add_unclip(conditioning, clip_vision_output, strength, noise_augmentation))


NODES = (
    CLIPVisionLoader,
    CLIPVisionEncode,
    StyleModelLoader,
    StyleModelApply,
    unCLIPConditioning,
)
