"""Nodes for models that are given a picture next to the noise: inpainting, instructions, upscaling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfyk import io

if TYPE_CHECKING:
    from torch import Tensor

    from comfyk_core_nodes.memory.patcher import ModelPatcher
    from comfyk_core_nodes.sampling.conditioning import Conditioning
    from comfyk_core_nodes.vae.vae import VAE

_LEAST = 4
"""Pixels of a picture that a place of the x4 upscaler's latent stands for."""


class InpaintModelConditioning(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InpaintModelConditioning",
            display_name="InpaintModelConditioning",
            category="model/conditioning",
            description="Gives an inpainting model the picture and the mask of what it is to paint.",
            v1_form=True,
            inputs=[
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                io.Vae.Input("vae"),
                io.Image.Input("pixels"),
                io.Mask.Input("mask"),
                io.Boolean.Input(
                    "noise_mask",
                    default=True,
                    tooltip=(
                        "Leave what is outside of the mask as it is. Without it, the model may change "
                        "that too."
                    ),
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="negative"),
                io.Latent.Output(display_name="latent"),
            ],
        )

    @classmethod
    def execute(
        cls,
        positive: Conditioning,
        negative: Conditioning,
        vae: VAE,
        pixels: Tensor,
        mask: Tensor,
        noise_mask: bool,
    ) -> io.NodeOutput:
        from comfyk_core_nodes.conditioning.inpaint import inpaint_conditioning

        return io.NodeOutput(*inpaint_conditioning(positive, negative, vae, pixels, mask, noise_mask))


class InstructPixToPixConditioning(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_ip2p"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructPixToPixConditioning",
            category="model/conditioning/instructpix2pix",
            description=("Gives a model that follows instructions (InstructPix2Pix) the picture to change."),
            inputs=[
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                io.Vae.Input("vae"),
                io.Image.Input("pixels"),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="negative"),
                io.Latent.Output(display_name="latent"),
            ],
        )

    @classmethod
    def execute(
        cls, positive: Conditioning, negative: Conditioning, vae: VAE, pixels: Tensor
    ) -> io.NodeOutput:
        from comfyk_core_nodes.conditioning.inpaint import edit_conditioning

        return io.NodeOutput(*edit_conditioning(positive, negative, vae, pixels))


class SD_4XUpscale_Conditioning(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_sdupscale"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SD_4XUpscale_Conditioning",
            category="model/conditioning/stable diffusion upscaler",
            description="Gives the four times upscaler of Stable Diffusion the picture to enlarge.",
            inputs=[
                io.Image.Input("images"),
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                io.Float.Input(
                    "scale_ratio",
                    default=4.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="The size of the result against that of the picture.",
                ),
                io.Float.Input(
                    "noise_augmentation",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    advanced=True,
                    tooltip="How much noise is put on the picture, for the model to invent more.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="negative"),
                io.Latent.Output(display_name="latent"),
            ],
        )

    @classmethod
    def execute(
        cls,
        images: Tensor,
        positive: Conditioning,
        negative: Conditioning,
        scale_ratio: float,
        noise_augmentation: float,
    ) -> io.NodeOutput:
        from comfyk_core_nodes.conditioning.inpaint import upscale_conditioning

        height, width = images.shape[1:3]
        if round(min(height, width) * scale_ratio) < _LEAST:
            raise ValueError(
                f"{scale_ratio} times a picture of {width}x{height} is less than {_LEAST} pixels, the least that the "
                "upscaler makes; set scale_ratio higher"
            )
        return io.NodeOutput(
            *upscale_conditioning(positive, negative, images, scale_ratio, noise_augmentation)
        )


class DifferentialDiffusion(io.ComfyNode):
    """A place joins in when the step has come down to its share of the noise."""

    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_differential_diffusion"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DifferentialDiffusion",
            display_name="Differential Diffusion",
            category="experimental",
            description="Reads a grey mask as how much each place is to change (arXiv:2306.00950).",
            search_aliases=["inpaint gradient", "variable denoise strength"],
            is_experimental=True,
            inputs=[
                io.Model.Input("model"),
                io.Float.Input(
                    "strength",
                    optional=True,
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="The rest is how much of the plain mask is mixed in.",
                ),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, strength: float = 1.0) -> io.NodeOutput:
        from functools import partial

        from comfyk_core_nodes.sampling.differential import differential_mask

        model = model.clone()
        model.set_model_denoise_mask_function(partial(differential_mask, strength=strength))
        return io.NodeOutput(model)


NODES = (
    InpaintModelConditioning,
    InstructPixToPixConditioning,
    SD_4XUpscale_Conditioning,
    DifferentialDiffusion,
)
