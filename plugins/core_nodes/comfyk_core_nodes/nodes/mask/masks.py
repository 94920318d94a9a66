"""Nodes that make masks (`[B, H, W]` float32 in 0..1) and turn them into pictures and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfyk import io

from comfyk_core_nodes.images.masks import OPERATIONS, as_masks, combine_masks, feather_mask, grow_mask
from comfyk_core_nodes.nodes.image.save import show
from comfyk_core_nodes.nodes.limits import MAX_RESOLUTION

if TYPE_CHECKING:
    from torch import Tensor

_MODULE = "comfy_extras.nodes_mask"
_CATEGORY = "image/mask"

CHANNELS = ("red", "green", "blue", "alpha")


class SolidMask(io.ComfyNode):
    """A mask `[1, height, width]` of one value."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SolidMask",
            display_name="Create Solid Mask",
            category=_CATEGORY,
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

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InvertMask",
            display_name="Invert Mask",
            category=_CATEGORY,
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

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskToImage",
            display_name="Convert Mask to Image",
            category=_CATEGORY,
            description="Shows a mask as a grey picture, white where it selects.",
            search_aliases=["convert mask"],
            inputs=[io.Mask.Input("mask")],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, mask: Tensor) -> io.NodeOutput:
        return io.NodeOutput(_as_pictures(mask))


def _as_pictures(mask: Tensor) -> Tensor:
    return as_masks(mask).unsqueeze(-1).expand(-1, -1, -1, 3)


class ImageToMask(io.ComfyNode):
    """One channel of `[B, H, W, C]` as a mask. Raises ValueError when the picture lacks it."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImageToMask",
            display_name="Convert Image to Mask",
            category=_CATEGORY,
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


class ImageColorToMask(io.ComfyNode):
    """1 where the picture, in 8 bits, has exactly the colour `0xRRGGBB`, `[B, H, W]`."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImageColorToMask",
            display_name="Convert Image Color to Mask",
            category=_CATEGORY,
            description="Selects what has a given colour.",
            search_aliases=["color keying", "chroma key"],
            inputs=[
                io.Image.Input("image"),
                io.Int.Input(
                    "color", default=0, min=0, max=0xFFFFFF, step=1, display_mode=io.NumberDisplay.number
                ),
            ],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, image: Tensor, color: int) -> io.NodeOutput:
        import torch

        rgb = torch.tensor([color >> shift & 0xFF for shift in (16, 8, 0)], device=image.device)
        pixels = (image[..., :3].clamp(0, 1) * 255).round()
        return io.NodeOutput((pixels == rgb).all(-1).float())


class CropMask(io.ComfyNode):
    """Cuts out a rectangle; what of it lies beyond the mask is not there."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CropMask",
            display_name="Crop Mask",
            category=_CATEGORY,
            description="Cuts a rectangle out of the masks.",
            search_aliases=["cut mask", "extract mask region", "mask slice"],
            inputs=[
                io.Mask.Input("mask"),
                io.Int.Input("x", default=0, min=0, max=MAX_RESOLUTION, step=1),
                io.Int.Input("y", default=0, min=0, max=MAX_RESOLUTION, step=1),
                io.Int.Input("width", default=512, min=1, max=MAX_RESOLUTION, step=1),
                io.Int.Input("height", default=512, min=1, max=MAX_RESOLUTION, step=1),
            ],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, mask: Tensor, x: int, y: int, width: int, height: int) -> io.NodeOutput:
        return io.NodeOutput(as_masks(mask)[:, y : y + height, x : x + width])


class MaskComposite(io.ComfyNode):
    """Combines two masks where the second lies over the first."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskComposite",
            display_name="Combine Masks",
            category=_CATEGORY,
            description="Combines the source with the part of the destination that it covers.",
            search_aliases=["combine masks", "blend masks", "layer masks", "masks composition"],
            inputs=[
                io.Mask.Input("destination"),
                io.Mask.Input("source"),
                io.Int.Input("x", default=0, min=0, max=MAX_RESOLUTION, step=1),
                io.Int.Input("y", default=0, min=0, max=MAX_RESOLUTION, step=1),
                io.Combo.Input("operation", options=OPERATIONS),
            ],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, destination: Tensor, source: Tensor, x: int, y: int, operation: str) -> io.NodeOutput:
        return io.NodeOutput(combine_masks(as_masks(destination), as_masks(source), x, y, operation))


class FeatherMask(io.ComfyNode):
    """Fades masks towards their edges, over so many pixels."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        sides = [
            io.Int.Input(side, default=0, min=0, max=MAX_RESOLUTION, step=1)
            for side in ("left", "top", "right", "bottom")
        ]
        return io.Schema(
            node_id="FeatherMask",
            display_name="Feather Mask",
            category=_CATEGORY,
            description="Fades the masks out towards their edges.",
            search_aliases=["soft edge mask", "blur mask edges", "gradient mask edge"],
            inputs=[io.Mask.Input("mask"), *sides],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, mask: Tensor, left: int, top: int, right: int, bottom: int) -> io.NodeOutput:
        return io.NodeOutput(feather_mask(as_masks(mask), left, top, right, bottom))


class GrowMask(io.ComfyNode):
    """Dilates masks by so many pixels; erodes them for a negative number."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GrowMask",
            display_name="Grow Mask",
            category=_CATEGORY,
            description="Makes what the masks select larger, or smaller for a negative number.",
            search_aliases=["expand mask", "shrink mask"],
            inputs=[
                io.Mask.Input("mask"),
                io.Int.Input("expand", default=0, min=-MAX_RESOLUTION, max=MAX_RESOLUTION, step=1),
                io.Boolean.Input("tapered_corners", default=True, advanced=True),
            ],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, mask: Tensor, expand: int, tapered_corners: bool) -> io.NodeOutput:
        return io.NodeOutput(grow_mask(as_masks(mask), expand, tapered_corners))


class ThresholdMask(io.ComfyNode):
    """1 above a value, 0 elsewhere."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThresholdMask",
            display_name="Threshold Mask",
            category=_CATEGORY,
            description="Makes the masks black and white.",
            search_aliases=["binary mask"],
            inputs=[
                io.Mask.Input("mask"),
                io.Float.Input("value", default=0.5, min=0.0, max=1.0, step=0.01),
            ],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, mask: Tensor, value: float) -> io.NodeOutput:
        return io.NodeOutput((mask > value).float())


class MaskPreview(io.ComfyNode):
    """Shows masks as grey pictures, and hands them on."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskPreview",
            display_name="Preview Mask",
            category=_CATEGORY,
            description="Shows the masks without keeping them.",
            search_aliases=["show mask", "view mask", "inspect mask", "debug mask"],
            is_output_node=True,
            inputs=[io.Mask.Input("mask")],
            outputs=[io.Mask.Output(display_name="mask")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, mask: Tensor) -> io.NodeOutput:
        return io.NodeOutput(mask, ui=show(_as_pictures(mask), cls.hidden))


NODES = (
    SolidMask,
    InvertMask,
    MaskToImage,
    ImageToMask,
    ImageColorToMask,
    CropMask,
    MaskComposite,
    FeatherMask,
    GrowMask,
    ThresholdMask,
    MaskPreview,
)
