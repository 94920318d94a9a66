"""Nodes that turn prompts into conditionings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfyk import io

from comfyk_core_nodes.families.missing_parts import present
from comfyk_core_nodes.nodes.limits import MAX_RESOLUTION
from comfyk_core_nodes.nodes.loaders.model_files import PromptNode

if TYPE_CHECKING:
    from comfyk_core_nodes.text.clip import CLIP


class CLIPTextEncode(PromptNode):
    """`[[cond [1, T, D], {"pooled_output": [1, P]}]]`."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CLIPTextEncode",
            display_name="CLIP Text Encode (Prompt)",
            category="model/conditioning",
            description="Turns a prompt into a conditioning, for a model to follow or to avoid.",
            search_aliases=[
                "text",
                "prompt",
                "text prompt",
                "positive prompt",
                "negative prompt",
                "encode text",
                "text encoder",
                "encode prompt",
            ],
            v1_form=True,
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip=(
                        "The prompt. (word:1.2) weighs a word, embedding:name takes a textual inversion."
                    ),
                ),
                io.Clip.Input("clip", tooltip="The text encoders."),
            ],
            outputs=[io.Conditioning.Output(tooltip="The prompt as models take it.")],
        )

    @classmethod
    def execute(cls, text: str, clip: CLIP | None) -> io.NodeOutput:
        clip = present(clip, "CLIP")
        return io.NodeOutput(clip.encode_from_tokens_scheduled(clip.tokenize(text)))


class CLIPSetLastLayer(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CLIPSetLastLayer",
            display_name="CLIP Set Last Layer",
            category="model/conditioning",
            description='Takes the output of an earlier layer of the text encoder ("clip skip").',
            v1_form=True,
            inputs=[
                io.Clip.Input("clip"),
                io.Int.Input(
                    "stop_at_clip_layer",
                    default=-1,
                    min=-24,
                    max=-1,
                    step=1,
                    advanced=True,
                    tooltip="Counted from the end: -1 is the last layer, -2 the one before it.",
                ),
            ],
            outputs=[io.Clip.Output()],
        )

    @classmethod
    def execute(cls, clip: CLIP | None, stop_at_clip_layer: int) -> io.NodeOutput:
        clip = present(clip, "CLIP").clone()
        clip.clip_layer(stop_at_clip_layer)
        return io.NodeOutput(clip)


class CLIPTextEncodeSDXL(PromptNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_clip_sdxl"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CLIPTextEncodeSDXL",
            display_name="CLIP Text Encode (SDXL)",
            category="model/conditioning/stable diffusion",
            description=(
                "Turns two prompts, one for each text encoder of SDXL, into a conditioning, "
                "with the sizes that SDXL was trained to know."
            ),
            inputs=[
                io.Clip.Input("clip"),
                io.Int.Input(
                    "width",
                    default=1024,
                    min=0,
                    max=MAX_RESOLUTION,
                    tooltip="The size of the picture before it was cut, in pixels.",
                ),
                io.Int.Input("height", default=1024, min=0, max=MAX_RESOLUTION),
                io.Int.Input(
                    "crop_w",
                    default=0,
                    min=0,
                    max=MAX_RESOLUTION,
                    advanced=True,
                    tooltip="Pixels that were cut off on the left.",
                ),
                io.Int.Input(
                    "crop_h",
                    default=0,
                    min=0,
                    max=MAX_RESOLUTION,
                    advanced=True,
                    tooltip="Pixels that were cut off at the top.",
                ),
                io.Int.Input(
                    "target_width",
                    default=1024,
                    min=0,
                    max=MAX_RESOLUTION,
                    tooltip="The size of the picture that is to be made.",
                ),
                io.Int.Input("target_height", default=1024, min=0, max=MAX_RESOLUTION),
                io.String.Input("text_g", multiline=True, dynamic_prompts=True, tooltip="For OpenCLIP-G."),
                io.String.Input("text_l", multiline=True, dynamic_prompts=True, tooltip="For CLIP-L."),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(
        cls,
        clip: CLIP | None,
        width: int,
        height: int,
        crop_w: int,
        crop_h: int,
        target_width: int,
        target_height: int,
        text_g: str,
        text_l: str,
    ) -> io.NodeOutput:
        clip = present(clip, "CLIP")
        tokens = clip.tokenize(text_g)
        if not {"g", "l"} <= tokens.keys():
            raise ValueError(
                "CLIPTextEncodeSDXL is for the two text encoders of SDXL, clip_l and clip_g; this CLIP has "
                f"only {', '.join(f'clip_{key}' for key in tokens)}: take the CLIP of an SDXL checkpoint, "
                "or encode the prompt with CLIPTextEncode (for the refiner CLIPTextEncodeSDXLRefiner)"
            )
        tokens["l"] = clip.tokenize(text_l)["l"]
        empty = clip.tokenize("")
        chunks = max(len(tokens["g"]), len(tokens["l"]))
        for key in ("g", "l"):
            tokens[key] += empty[key] * (chunks - len(tokens[key]))
        sizes = {
            "width": width,
            "height": height,
            "crop_w": crop_w,
            "crop_h": crop_h,
            "target_width": target_width,
            "target_height": target_height,
        }
        return io.NodeOutput(clip.encode_from_tokens_scheduled(tokens, add_dict=sizes))


class CLIPTextEncodeSDXLRefiner(PromptNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_clip_sdxl"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CLIPTextEncodeSDXLRefiner",
            display_name="CLIP Text Encode (SDXL Refiner)",
            category="model/conditioning/stable diffusion",
            description="Turns a prompt into a conditioning for the refiner of SDXL.",
            inputs=[
                io.Float.Input(
                    "ascore",
                    default=6.0,
                    min=0.0,
                    max=1000.0,
                    step=0.01,
                    tooltip=(
                        "How pleasing the picture is to be, from 0 to 10; about 2.5 suits negative prompts."
                    ),
                ),
                io.Int.Input("width", default=1024, min=0, max=MAX_RESOLUTION),
                io.Int.Input("height", default=1024, min=0, max=MAX_RESOLUTION),
                io.String.Input("text", multiline=True, dynamic_prompts=True),
                io.Clip.Input("clip"),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, ascore: float, width: int, height: int, text: str, clip: CLIP | None) -> io.NodeOutput:
        clip = present(clip, "CLIP")
        sizes = {"aesthetic_score": ascore, "width": width, "height": height}
        return io.NodeOutput(clip.encode_from_tokens_scheduled(clip.tokenize(text), add_dict=sizes))


NODES = (
    CLIPTextEncode,
    CLIPSetLastLayer,
    CLIPTextEncodeSDXL,
    CLIPTextEncodeSDXLRefiner,
)
