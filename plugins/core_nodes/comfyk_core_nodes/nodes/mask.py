"""Nodes that make masks (`[B, H, W]` float32 in 0..1) and turn them into pictures and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfyk import io

from comfyk_core_nodes.nodes.limits import MAX_RESOLUTION

if TYPE_CHECKING:
    from torch import Tensor

CHANNELS = ("red", "green", "blue", "alpha")


class SolidMask(io.ComfyNode):
    """A mask `[1, height, width]` of one value."""

    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_mask"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SolidMask",
            display_name="Create Solid Mask",
            category="image/mask",
            description="Makes a mask with the same value everywhere.",
            inputs=[
                io.Float.Input("value", default=1.0, min=0.0, max=1.0, step=0.01),
                io.Int.Input("width", default=512, min=1, max=MAX_RESOLUTION, step=1),
                io.Int.Input("height", default=512, min=1, max=MAX_RESOLUTION, step=1),
            ],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, value: float, width: int, height: int) -> io.NodeOutput:
        import torch

        return io.NodeOutput(torch.full((1, height, width), value, dtype=torch.float32))


class InvertMask(io.ComfyNode):
    """`1 - mask`."""

    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_mask"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InvertMask",
            display_name="Invert Mask",
            category="image/mask",
            description="Selects what the mask leaves out.",
            search_aliases=["reverse mask", "flip mask"],
            inputs=[io.Mask.Input("mask")],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, mask: Tensor) -> io.NodeOutput:
        return io.NodeOutput(1.0 - mask)


class MaskToImage(io.ComfyNode):
    """Grey pictures `[B, H, W, 3]` of masks `[B, H, W]`, `[H, W]` or with more leading dimensions."""

    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_mask"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskToImage",
            display_name="Convert Mask to Image",
            category="image/mask",
            description="Shows a mask as a grey picture, white where it selects.",
            search_aliases=["convert mask"],
            inputs=[io.Mask.Input("mask")],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, mask: Tensor) -> io.NodeOutput:
        return io.NodeOutput(mask.reshape(-1, *mask.shape[-2:], 1).expand(-1, -1, -1, 3))


class ImageToMask(io.ComfyNode):
    """One channel of `[B, H, W, C]` as a mask. Raises ValueError when the picture lacks it."""

    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_mask"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImageToMask",
            display_name="Convert Image to Mask",
            category="image/mask",
            description="Takes one channel of the pictures as a mask.",
            search_aliases=["extract channel", "channel to mask"],
            inputs=[io.Image.Input("image"), io.Combo.Input("channel", options=CHANNELS)],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, image: Tensor, channel: str) -> io.NodeOutput:
        index = CHANNELS.index(channel)
        if index >= image.shape[-1]:
            raise ValueError(
                f"the picture has no {channel} channel, it has {image.shape[-1]}; choose another one"
            )
        return io.NodeOutput(image[..., index])


NODES = (SolidMask, InvertMask, MaskToImage, ImageToMask)
