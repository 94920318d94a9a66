"""Nodes that crop, turn, scale and frame pictures (`[B, H, W, C]`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from comfyk import io, progress_text

from comfyk_core_nodes.images.resize import resize_images
from comfyk_core_nodes.images.stitch import COLORS, DIRECTIONS, resize_and_pad, stitch_images
from comfyk_core_nodes.images.subject import crop_to_mask
from comfyk_core_nodes.nodes.image.orientation import FLIPS, ROTATIONS
from comfyk_core_nodes.nodes.image.save import show
from comfyk_core_nodes.nodes.limits import MAX_RESOLUTION

if TYPE_CHECKING:
    from torch import Tensor

_MODULE = "comfy_extras.nodes_images"
_CATEGORY = "image/transform"


class ImageCropV2(io.ComfyNode):
    """Cuts out a rectangle that is drawn on the picture; what of it lies beyond the picture is not there."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImageCropV2",
            display_name="Crop Image",
            category=_CATEGORY,
            description="Cuts a rectangle out of the pictures and shows it.",
            search_aliases=["crop", "cut", "trim"],
            essentials_category="Image Tools",
            has_intermediate_output=True,
            inputs=[io.Image.Input("image"), io.BoundingBox.Input("crop_region", component="ImageCrop")],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: Tensor, crop_region: Mapping[str, int]) -> io.NodeOutput:
        left = min(crop_region.get("x", 0), image.shape[2] - 1)
        top = min(crop_region.get("y", 0), image.shape[1] - 1)
        right = left + crop_region.get("width", 512)
        bottom = top + crop_region.get("height", 512)
        cropped = image[:, top:bottom, left:right]
        return io.NodeOutput(cropped, ui=show(cropped))


class ImageCropToMask(io.ComfyNode):
    """The subjects that masks select, in the middle of plain pictures `[B, height, width, 3]`."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImageCropToMask",
            display_name="Crop Image to Mask",
            category=_CATEGORY,
            description="Cuts out what the mask selects, on a plain background, as models that make 3D shapes "
            "want it.",
            search_aliases=[
                "crop to mask",
                "mask crop",
                "crop mask",
                "mask crop resize",
                "crop mask resize",
                "trellis2",
                "pixal3d",
            ],
            inputs=[
                io.Image.Input("images"),
                io.Mask.Input("masks"),
                io.Int.Input("width", default=1024, min=64, max=4096, step=8, tooltip="Of the result."),
                io.Int.Input("height", default=1024, min=64, max=4096, step=8, tooltip="Of the result."),
                io.Float.Input(
                    "pad_factor",
                    default=1.0,
                    min=1.0,
                    max=2.0,
                    step=0.01,
                    tooltip="How much larger than the subject the cut is: 1.1 leaves a margin of 5 % on each side.",
                ),
                io.Int.Input(
                    "grow_mask",
                    default=0,
                    min=-32,
                    max=32,
                    step=1,
                    tooltip="By how many pixels the mask grows first, or shrinks when negative.",
                ),
                io.Color.Input("background", default="#000000", tooltip="What is behind the subject."),
            ],
            outputs=[io.Image.Output(display_name="images")],
        )

    @classmethod
    def execute(
        cls,
        images: Tensor,
        masks: Tensor,
        width: int,
        height: int,
        pad_factor: float,
        grow_mask: int,
        background: str,
    ) -> io.NodeOutput:
        import torch

        if masks.shape[0] == 1:
            masks = masks.expand(images.shape[0], -1, -1)
        if masks.shape[0] != images.shape[0]:
            raise ValueError(
                f"there are {images.shape[0]} pictures and {masks.shape[0]} masks; give as many, or one"
            )
        if masks.shape[-2:] != images.shape[1:3]:
            masks = resize_images(masks.float().unsqueeze(-1), images.shape[2], images.shape[1], "bilinear")[
                ..., 0
            ]
        color = torch.tensor(_rgb(background))
        cut = [
            crop_to_mask(image, mask, width, height, margin=pad_factor, grow=grow_mask, background=color)
            for image, mask in zip(images[..., :3], masks, strict=True)
        ]
        return io.NodeOutput(torch.stack(cut))


def _rgb(color: str) -> list[float]:
    """`#rrggbb` as three values in 0..1; black for what is no colour."""
    try:
        channels = bytes.fromhex(color.lstrip("#"))
    except ValueError:
        channels = b""
    return [channel / 255 for channel in channels] if len(channels) == 3 else [0.0, 0.0, 0.0]


class ImageStitch(io.ComfyNode):
    """Puts a second picture beside the first."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImageStitch",
            display_name="Stitch Images",
            category=_CATEGORY,
            description="Puts image2 beside, above or below image1, with a gap if you like. Without image2 it gives "
            "image1 as it is.",
            search_aliases=["combine images", "join images", "concatenate images", "side by side"],
            inputs=[
                io.Image.Input("image1"),
                io.Combo.Input("direction", options=DIRECTIONS, default="right"),
                io.Boolean.Input("match_image_size", default=True),
                io.Int.Input("spacing_width", default=0, min=0, max=1024, step=2, advanced=True),
                io.Combo.Input("spacing_color", options=tuple(COLORS), default="white", advanced=True),
                io.Image.Input("image2", optional=True),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(
        cls,
        image1: Tensor,
        direction: str,
        match_image_size: bool,
        spacing_width: int,
        spacing_color: str,
        image2: Tensor | None = None,
    ) -> io.NodeOutput:
        if image2 is None:
            return io.NodeOutput(image1)
        return io.NodeOutput(
            stitch_images(image1, image2, direction, match_image_size, spacing_width, spacing_color)
        )


class ResizeAndPadImage(io.ComfyNode):
    """Scales into a frame of a given size."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ResizeAndPadImage",
            display_name="Resize And Pad Image",
            category=_CATEGORY,
            description="Scales the pictures to fit a size, and fills the rest of it.",
            search_aliases=["fit to size"],
            inputs=[
                io.Image.Input("image"),
                io.Int.Input("target_width", default=512, min=1, max=MAX_RESOLUTION, step=1),
                io.Int.Input("target_height", default=512, min=1, max=MAX_RESOLUTION, step=1),
                io.Combo.Input("padding_color", options=("white", "black"), advanced=True),
                io.Combo.Input(
                    "interpolation",
                    options=("area", "bicubic", "nearest-exact", "bilinear", "lanczos"),
                    advanced=True,
                ),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(
        cls, image: Tensor, target_width: int, target_height: int, padding_color: str, interpolation: str
    ) -> io.NodeOutput:
        is_white = padding_color == "white"
        return io.NodeOutput(resize_and_pad(image, target_width, target_height, is_white, interpolation))


class GetImageSize(io.ComfyNode):
    """Width and height in pixels, and how many pictures there are; also shown on the node."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GetImageSize",
            display_name="Get Image Size",
            category="image",
            description="Says how large the pictures are, and how many.",
            search_aliases=["dimensions", "resolution", "image info"],
            inputs=[io.Image.Input("image")],
            outputs=[
                io.Int.Output(display_name="width"),
                io.Int.Output(display_name="height"),
                io.Int.Output(display_name="batch_size"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, image: Tensor) -> io.NodeOutput:
        batch, height, width = image.shape[:3]
        progress_text(f"width: {width}, height: {height}\n batch size: {batch}")
        return io.NodeOutput(width, height, batch)


class ImageRotate(io.ComfyNode):
    """Turns clockwise."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImageRotate",
            display_name="Rotate Image",
            category=_CATEGORY,
            description="Turns the pictures clockwise.",
            search_aliases=["turn", "flip orientation"],
            essentials_category="Image Tools",
            inputs=[io.Image.Input("image"), io.Combo.Input("rotation", options=tuple(ROTATIONS))],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: Tensor, rotation: str) -> io.NodeOutput:
        return io.NodeOutput(image.rot90(ROTATIONS[rotation], (2, 1)))


class ImageFlip(io.ComfyNode):
    """Mirrors top and bottom, or left and right."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImageFlip",
            display_name="Flip Image",
            category=_CATEGORY,
            description="Mirrors the pictures.",
            search_aliases=["mirror", "reflect"],
            inputs=[io.Image.Input("image"), io.Combo.Input("flip_method", options=tuple(FLIPS))],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: Tensor, flip_method: str) -> io.NodeOutput:
        return io.NodeOutput(image.flip(image.ndim - 1 + FLIPS[flip_method]))


class ImageScaleToMaxDimension(io.ComfyNode):
    """Resizes so that the longer side has a given length in pixels."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImageScaleToMaxDimension",
            display_name="Scale Image to Max Dimension",
            category="image/upscaling",
            description="Resizes the pictures to a length of their longer side.",
            inputs=[
                io.Image.Input("image"),
                io.Combo.Input(
                    "upscale_method",
                    # Clients are told of bilinear twice, as by ComfyUI.
                    options=("area", "lanczos", "bilinear", "nearest-exact", "bilinear", "bicubic"),
                ),
                io.Int.Input("largest_size", default=512, min=0, max=MAX_RESOLUTION, step=1),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: Tensor, upscale_method: str, largest_size: int) -> io.NodeOutput:
        height, width = image.shape[1:3]
        longer = max(height, width)
        new_width, new_height = (max(1, round(side / longer * largest_size)) for side in (width, height))
        return io.NodeOutput(resize_images(image, new_width, new_height, upscale_method))


NODES = (
    ImageCropV2,
    ImageCropToMask,
    ImageStitch,
    ResizeAndPadImage,
    GetImageSize,
    ImageRotate,
    ImageFlip,
    ImageScaleToMaxDimension,
)
