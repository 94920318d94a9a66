"""Nodes that change the pixels of pictures: noise, edges, one picture over another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfyk import io

from comfyk_core_nodes.images.canny import canny
from comfyk_core_nodes.images.composite import composite, with_channels_of
from comfyk_core_nodes.nodes.limits import MAX_RESOLUTION

if TYPE_CHECKING:
    from torch import Tensor


class ImageAddNoise(io.ComfyNode):
    """Adds Gaussian noise, from the CPU's generator, so that a seed gives the same everywhere."""

    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_images"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImageAddNoise",
            display_name="Add Noise to Image",
            category="image/filters",
            description="Adds noise to the pictures, like the grain of film.",
            search_aliases=["film grain"],
            inputs=[
                io.Image.Input("image"),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Which noise.",
                ),
                io.Float.Input("strength", default=0.5, min=0.0, max=1.0, step=0.01),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: Tensor, seed: int, strength: float) -> io.NodeOutput:
        import torch

        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(image.shape, generator=generator).to(image)
        return io.NodeOutput((image + strength * noise).clamp(0.0, 1.0))


class Canny(io.ComfyNode):
    """Edges as white lines on black, `[B, H, W, 3]`."""

    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_canny"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Canny",
            display_name="Detect Edges (Canny)",
            category="image/filters",
            description="Draws the edges in the pictures as white lines.",
            search_aliases=["edge detection", "outline", "contour detection", "line art"],
            essentials_category="Image Tools",
            inputs=[
                io.Image.Input("image"),
                io.Float.Input(
                    "low_threshold",
                    default=0.4,
                    min=0.01,
                    max=0.99,
                    step=0.01,
                    tooltip="How steep an edge must be where it goes on from a clear one.",
                ),
                io.Float.Input(
                    "high_threshold",
                    default=0.8,
                    min=0.01,
                    max=0.99,
                    step=0.01,
                    tooltip="How steep an edge must be to be clear.",
                ),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: Tensor, low_threshold: float, high_threshold: float) -> io.NodeOutput:
        from comfyk_core_nodes.devices.device import get_torch_device

        edges = canny(image.to(get_torch_device()), low_threshold, high_threshold).to(image.device)
        return io.NodeOutput(edges.unsqueeze(-1).repeat(1, 1, 1, 3))


class ImageCompositeMasked(io.ComfyNode):
    """Lays a picture over another, where a mask says so."""

    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_mask"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImageCompositeMasked",
            display_name="Image Composite Masked",
            category="image/compositing",
            description="Lays the source over the destination, all of it or where the mask is white.",
            search_aliases=["overlay", "layer", "paste image", "images composition"],
            inputs=[
                io.Image.Input("destination"),
                io.Image.Input("source"),
                io.Int.Input("x", default=0, min=0, max=MAX_RESOLUTION, step=1),
                io.Int.Input("y", default=0, min=0, max=MAX_RESOLUTION, step=1),
                io.Boolean.Input("resize_source", default=False),
                io.Mask.Input("mask", optional=True),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(
        cls,
        destination: Tensor,
        source: Tensor,
        x: int,
        y: int,
        resize_source: bool,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        source = with_channels_of(destination, source).movedim(-1, 1)
        result = composite(destination.movedim(-1, 1), source, x, y, mask, resize_source=resize_source)
        return io.NodeOutput(result.movedim(1, -1))


NODES = (ImageAddNoise, Canny, ImageCompositeMasked)
