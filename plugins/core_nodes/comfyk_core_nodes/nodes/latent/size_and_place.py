"""Nodes that make, scale and put together latents (dicts with `samples` `[B, C, ..., h, w]`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfyk import io

from comfyk_core_nodes.images.composite import composite
from comfyk_core_nodes.images.masks import as_masks
from comfyk_core_nodes.images.resize import CROPS, LATENT_METHODS, resize
from comfyk_core_nodes.latents.arithmetic import blend, feathered_composite
from comfyk_core_nodes.nodes.limits import MAX_RESOLUTION

if TYPE_CHECKING:
    from torch import Tensor

Latent = dict[str, Any]

_CATEGORY = "model/latent"
PIXELS = 8
"""Of a picture, for each of a latent, in the inputs of these nodes, whatever the model."""
_SMALLEST = 64
"""The shortest side that a latent is scaled to, in pixels of the picture."""


class EmptyLatentImage(io.ComfyNode):
    """Zeros `[B, 4, height / 8, width / 8]`; a sampler gives them as many channels as its model has."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EmptyLatentImage",
            display_name="Empty Latent Image",
            category=_CATEGORY,
            description="Makes empty latents for a sampler to start from.",
            search_aliases=["empty", "empty latent", "new latent", "create latent", "blank latent", "blank"],
            v1_form=True,
            inputs=[
                io.Int.Input(
                    "width",
                    default=512,
                    min=16,
                    max=MAX_RESOLUTION,
                    step=8,
                    tooltip="Of the picture, in pixels.",
                ),
                io.Int.Input(
                    "height",
                    default=512,
                    min=16,
                    max=MAX_RESOLUTION,
                    step=8,
                    tooltip="Of the picture, in pixels.",
                ),
                io.Int.Input("batch_size", default=1, min=1, max=4096, tooltip="How many pictures."),
            ],
            outputs=[io.Latent.Output(tooltip="The empty latents.")],
        )

    @classmethod
    def execute(cls, width: int, height: int, batch_size: int = 1) -> io.NodeOutput:
        import torch

        from comfyk_core_nodes.sampling.run import to_intermediate

        samples = to_intermediate(torch.zeros(batch_size, 4, height // PIXELS, width // PIXELS))
        return io.NodeOutput({"samples": samples, "downscale_ratio_spacial": PIXELS})


class LatentUpscale(io.ComfyNode):
    """Resizes to a width and a height of the picture in pixels; a 0 keeps the aspect, two change nothing."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LatentUpscale",
            display_name="Upscale Latent",
            category=_CATEGORY,
            description="Resizes latents. A width or height of 0 follows from the other one.",
            search_aliases=["enlarge latent", "resize latent"],
            v1_form=True,
            inputs=[
                io.Latent.Input("samples"),
                io.Combo.Input("upscale_method", options=LATENT_METHODS),
                io.Int.Input("width", default=512, min=0, max=MAX_RESOLUTION, step=8),
                io.Int.Input("height", default=512, min=0, max=MAX_RESOLUTION, step=8),
                io.Combo.Input("crop", options=CROPS),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(
        cls, samples: Latent, upscale_method: str, width: int, height: int, crop: str
    ) -> io.NodeOutput:
        latent: Tensor = samples["samples"]
        old_height, old_width = latent.shape[-2:]
        if width == 0 and height == 0:
            return io.NodeOutput(samples)
        width, height = (side and max(_SMALLEST, side) for side in (width, height))
        if width == 0:
            width = max(_SMALLEST, round(old_width * height / old_height))
        elif height == 0:
            height = max(_SMALLEST, round(old_height * width / old_width))
        resized = resize(latent, width // PIXELS, height // PIXELS, upscale_method, crop)
        return io.NodeOutput({**samples, "samples": resized})


class LatentUpscaleBy(io.ComfyNode):
    """Resizes by a factor."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LatentUpscaleBy",
            display_name="Upscale Latent By",
            category=_CATEGORY,
            description="Resizes latents by a factor.",
            search_aliases=["enlarge latent", "resize latent", "scale latent"],
            v1_form=True,
            inputs=[
                io.Latent.Input("samples"),
                io.Combo.Input("upscale_method", options=LATENT_METHODS),
                io.Float.Input("scale_by", default=1.5, min=0.01, max=8.0, step=0.01),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples: Latent, upscale_method: str, scale_by: float) -> io.NodeOutput:
        latent: Tensor = samples["samples"]
        height, width = (max(1, round(side * scale_by)) for side in latent.shape[-2:])
        return io.NodeOutput({**samples, "samples": resize(latent, width, height, upscale_method)})


class SetLatentNoiseMask(io.ComfyNode):
    """Sets where a sampler changes the latents: `noise_mask` `[B, 1, H, W]`, in pixels of the picture."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SetLatentNoiseMask",
            display_name="Set Latent Noise Mask",
            category=_CATEGORY,
            description="Lets a sampler change only what the mask selects.",
            v1_form=True,
            inputs=[io.Latent.Input("samples"), io.Mask.Input("mask")],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples: Latent, mask: Tensor) -> io.NodeOutput:
        return io.NodeOutput({**samples, "noise_mask": as_masks(mask).unsqueeze(1)})


class LatentComposite(io.ComfyNode):
    """Lays latents over others, with soft edges; sizes are in pixels of the picture."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LatentComposite",
            display_name="Latent Composite",
            category=_CATEGORY,
            description="Lays latents over others, with soft edges if you like.",
            search_aliases=["overlay latent", "layer latent", "paste latent"],
            v1_form=True,
            inputs=[
                io.Latent.Input("samples_to"),
                io.Latent.Input("samples_from"),
                io.Int.Input("x", default=0, min=0, max=MAX_RESOLUTION, step=8),
                io.Int.Input("y", default=0, min=0, max=MAX_RESOLUTION, step=8),
                io.Int.Input("feather", default=0, min=0, max=MAX_RESOLUTION, step=8),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(
        cls, samples_to: Latent, samples_from: Latent, x: int, y: int, feather: int = 0
    ) -> io.NodeOutput:
        x, y, feather = (pixels // PIXELS for pixels in (x, y, feather))
        result = feathered_composite(samples_to["samples"], samples_from["samples"], x, y, feather)
        return io.NodeOutput({**samples_to, "samples": result})


class LatentCompositeMasked(io.ComfyNode):
    """Lays latents over others, where a mask says so; `x` and `y` are in pixels of the picture."""

    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_mask"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LatentCompositeMasked",
            display_name="Latent Composite Masked",
            category=_CATEGORY,
            description="Lays the source over the destination, all of it or where the mask is white.",
            search_aliases=["overlay latent", "layer latent", "paste latent", "inpaint latent"],
            inputs=[
                io.Latent.Input("destination"),
                io.Latent.Input("source"),
                io.Int.Input("x", default=0, min=0, max=MAX_RESOLUTION, step=8),
                io.Int.Input("y", default=0, min=0, max=MAX_RESOLUTION, step=8),
                io.Boolean.Input("resize_source", default=False),
                io.Mask.Input("mask", optional=True),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(
        cls,
        destination: Latent,
        source: Latent,
        x: int,
        y: int,
        resize_source: bool,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        result = composite(
            destination["samples"], source["samples"], x, y, mask,
            pixels_per_element=PIXELS, resize_source=resize_source,
        )  # fmt: skip
        return io.NodeOutput({**destination, "samples": result})


class LatentBlend(io.ComfyNode):
    """`blend_factor` of the first latents, and the rest of the second, at the size of the first."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LatentBlend",
            display_name="Latent Blend",
            category="experimental",
            description="Mixes two latents. A factor of 1 gives the first one.",
            search_aliases=["mix latents", "interpolate latents"],
            v1_form=True,
            inputs=[
                io.Latent.Input("samples1"),
                io.Latent.Input("samples2"),
                io.Float.Input("blend_factor", default=0.5, min=0, max=1, step=0.01),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples1: Latent, samples2: Latent, blend_factor: float) -> io.NodeOutput:
        mixed = blend(samples1["samples"], samples2["samples"], blend_factor)
        return io.NodeOutput({**samples1, "samples": mixed})


NODES = (
    EmptyLatentImage,
    LatentUpscale,
    LatentUpscaleBy,
    SetLatentNoiseMask,
    LatentComposite,
    LatentCompositeMasked,
    LatentBlend,
)
