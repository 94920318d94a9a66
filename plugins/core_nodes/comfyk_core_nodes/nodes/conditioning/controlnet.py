"""Nodes for ControlNets, control-LoRAs and T2I-Adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfyk import io

from comfyk_core_nodes.control.names import UNION_CONTROLNET_TYPES, union_type_numbers
from comfyk_core_nodes.nodes.loaders.model_files import ModelFileNode, model_names, model_path

if TYPE_CHECKING:
    from torch import Tensor

    from comfyk_core_nodes.control.base import ControlBase
    from comfyk_core_nodes.memory.patcher import ModelPatcher
    from comfyk_core_nodes.sampling.conditioning import Conditioning
    from comfyk_core_nodes.vae.vae import VAE

UNION_TYPES = ("auto", *UNION_CONTROLNET_TYPES)


class ControlNetLoader(ModelFileNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ControlNetLoader",
            display_name="Load ControlNet Model",
            category="model/loaders",
            description="Loads a ControlNet, control-LoRA or T2I-Adapter.",
            search_aliases=["controlnet", "control net", "cn", "load controlnet", "controlnet loader"],
            v1_form=True,
            inputs=[io.Combo.Input("control_net_name", options=model_names("controlnet"))],
            outputs=[io.ControlNet.Output()],
        )

    @classmethod
    def execute(cls, control_net_name: str) -> io.NodeOutput:
        from comfyk_core_nodes.control.load import load_controlnet

        return io.NodeOutput(load_controlnet(model_path("controlnet", control_net_name)))


class DiffControlNetLoader(ModelFileNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DiffControlNetLoader",
            display_name="Load ControlNet Model (diff)",
            category="model/loaders",
            description="Loads a ControlNet that is stored as the difference to a model.",
            v1_form=True,
            inputs=[
                io.Model.Input("model", tooltip="The model that it is the difference to."),
                io.Combo.Input("control_net_name", options=model_names("controlnet")),
            ],
            outputs=[io.ControlNet.Output()],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, control_net_name: str) -> io.NodeOutput:
        from comfyk_core_nodes.control.load import load_controlnet

        return io.NodeOutput(load_controlnet(model_path("controlnet", control_net_name), model))


class ControlNetApply(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ControlNetApply",
            display_name="Apply ControlNet (DEPRECATED)",
            category="model/conditioning/controlnet",
            description="Has a ControlNet guide the whole sampling, on both conditionings.",
            is_deprecated=True,
            v1_form=True,
            inputs=[
                io.Conditioning.Input("conditioning"),
                io.ControlNet.Input("control_net"),
                io.Image.Input("image"),
                io.Float.Input("strength", default=1.0, min=0.0, max=10.0, step=0.01),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(
        cls, conditioning: Conditioning, control_net: ControlBase, image: Tensor, strength: float
    ) -> io.NodeOutput:
        from comfyk_core_nodes.conditioning.edit import apply_controlnet

        return io.NodeOutput(
            *apply_controlnet([conditioning], control_net, image, strength, apply_to_uncond=True)
        )


class ControlNetApplyAdvanced(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ControlNetApplyAdvanced",
            display_name="Apply ControlNet",
            category="model/conditioning/controlnet",
            description="Has a ControlNet guide a part of the sampling.",
            search_aliases=["controlnet", "apply controlnet", "use controlnet", "control net"],
            v1_form=True,
            inputs=[
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                io.ControlNet.Input("control_net"),
                io.Image.Input("image"),
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=10.0, step=0.01, tooltip="How much it counts."
                ),
                io.Float.Input(
                    "start_percent", default=0.0, min=0.0, max=1.0, step=0.001, tooltip="0 is the first step."
                ),
                io.Float.Input(
                    "end_percent", default=1.0, min=0.0, max=1.0, step=0.001, tooltip="1 is the last step."
                ),
                io.Vae.Input("vae", optional=True, tooltip="For ControlNets that take latents."),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="negative"),
            ],
        )

    @classmethod
    def execute(
        cls,
        positive: Conditioning,
        negative: Conditioning,
        control_net: ControlBase,
        image: Tensor,
        strength: float,
        start_percent: float,
        end_percent: float,
        vae: VAE | None = None,
    ) -> io.NodeOutput:
        from comfyk_core_nodes.conditioning.edit import apply_controlnet

        return io.NodeOutput(
            *apply_controlnet(
                [positive, negative], control_net, image, strength, start_percent, end_percent, vae=vae
            )
        )


class SetUnionControlNetType(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_controlnet"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SetUnionControlNetType",
            display_name="Set Union ControlNet Type",
            category="model/conditioning/controlnet",
            description="Tells a union ControlNet what kind of hint it is given.",
            search_aliases=["set controlnet type", "union controlnet type"],
            inputs=[io.ControlNet.Input("control_net"), io.Combo.Input("type", options=UNION_TYPES)],
            outputs=[io.ControlNet.Output()],
        )

    @classmethod
    def execute(cls, control_net: ControlBase, type: str) -> io.NodeOutput:
        control_net = control_net.copy()
        control_net.set_extra_arg("control_type", union_type_numbers(type))
        return io.NodeOutput(control_net)


class ControlNetInpaintingAliMamaApply(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_controlnet"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ControlNetInpaintingAliMamaApply",
            display_name="Apply ControlNet Inpainting (AliMama)",
            category="model/conditioning/controlnet",
            description="Has AliMama's inpainting ControlNet guide a part of the sampling.",
            search_aliases=["masked controlnet"],
            inputs=[
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                io.ControlNet.Input("control_net"),
                io.Vae.Input("vae"),
                io.Image.Input("image"),
                io.Mask.Input("mask", tooltip="What is to be painted."),
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=10.0, step=0.01, tooltip="How much it counts."
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    advanced=True,
                    tooltip="0 is the first step.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    advanced=True,
                    tooltip="1 is the last step.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="negative"),
            ],
        )

    @classmethod
    def execute(
        cls,
        positive: Conditioning,
        negative: Conditioning,
        control_net: ControlBase,
        vae: VAE,
        image: Tensor,
        mask: Tensor,
        strength: float,
        start_percent: float,
        end_percent: float,
    ) -> io.NodeOutput:
        from comfyk_core_nodes.conditioning.edit import apply_controlnet
        from comfyk_core_nodes.conditioning.inpaint import masked_hint

        extra: list[Tensor] = []
        if control_net.concat_mask:
            image, kept = masked_hint(image, mask)
            extra = [kept]
        return io.NodeOutput(
            *apply_controlnet(
                [positive, negative],
                control_net,
                image,
                strength,
                start_percent,
                end_percent,
                vae=vae,
                extra_concat=extra,
            )
        )


NODES = (
    ControlNetLoader,
    DiffControlNetLoader,
    ControlNetApply,
    ControlNetApplyAdvanced,
    SetUnionControlNetType,
    ControlNetInpaintingAliMamaApply,
)
