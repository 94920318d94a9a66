"""Nodes that make and change pictures (`[B, H, W, C]` float32 in 0..1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfyk import io

from comfyk_core_nodes.images.outpaint import pad_for_outpaint
from comfyk_core_nodes.images.resize import CROPS, METHODS, fit_size, resize_images
from comfyk_core_nodes.nodes.limits import MAX_RESOLUTION

if TYPE_CHECKING:
    from torch import Tensor


class EmptyImage(io.ComfyNode):
    """Pictures `[batch_size, height, width, 3]` of one colour, given as `0xRRGGBB`."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EmptyImage",
            display_name="Empty Image",
            category="image",
            description="Makes pictures of a single colour.",
            v1_form=True,
            inputs=[
                io.Int.Input("width", default=512, min=1, max=MAX_RESOLUTION, step=1),
                io.Int.Input("height", default=512, min=1, max=MAX_RESOLUTION, step=1),
                io.Int.Input("batch_size", default=1, min=1, max=4096),
                io.Int.Input(
                    "color", default=0, min=0, max=0xFFFFFF, step=1, extra_dict={"display": "color"}
                ),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, width: int, height: int, batch_size: int = 1, color: int = 0) -> io.NodeOutput:
        import torch

        rgb = torch.tensor([(color >> shift & 0xFF) / 0xFF for shift in (16, 8, 0)], dtype=torch.float32)
        return io.NodeOutput(rgb.repeat(batch_size, height, width, 1))


class ImageScale(io.ComfyNode):
    """Resizes to a width and a height in pixels; a 0 keeps the aspect."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImageScale",
            display_name="Upscale Image",
            category="image/upscaling",
            description="Resizes pictures. A width or height of 0 follows from the other one.",
            search_aliases=[
                "resize",
                "resize image",
                "scale image",
                "image resize",
                "zoom",
                "zoom in",
                "change size",
            ],
            essentials_category="Image Tools",
            v1_form=True,
            inputs=[
                io.Image.Input("image"),
                io.Combo.Input("upscale_method", options=METHODS),
                io.Int.Input("width", default=512, min=0, max=MAX_RESOLUTION, step=1),
                io.Int.Input("height", default=512, min=0, max=MAX_RESOLUTION, step=1),
                io.Combo.Input("crop", options=CROPS),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: Tensor, upscale_method: str, width: int, height: int, crop: str) -> io.NodeOutput:
        if width == 0 and height == 0:
            return io.NodeOutput(image)
        width, height = fit_size(image.shape[2], image.shape[1], width, height)
        return io.NodeOutput(resize_images(image, width, height, upscale_method, crop))


class ImageScaleBy(io.ComfyNode):
    """Resizes by a factor."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImageScaleBy",
            display_name="Upscale Image By",
            category="image/upscaling",
            description="Resizes pictures by a factor.",
            essentials_category="Image Tools",
            v1_form=True,
            inputs=[
                io.Image.Input("image"),
                io.Combo.Input("upscale_method", options=METHODS),
                io.Float.Input("scale_by", default=1.0, min=0.01, max=8.0, step=0.01),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: Tensor, upscale_method: str, scale_by: float) -> io.NodeOutput:
        width = max(1, round(image.shape[2] * scale_by))
        height = max(1, round(image.shape[1] * scale_by))
        return io.NodeOutput(resize_images(image, width, height, upscale_method))


class ImageInvert(io.ComfyNode):
    """`1 - image`."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImageInvert",
            display_name="Invert Image Colors",
            category="image/color",
            description="Turns each colour into its opposite.",
            search_aliases=["reverse colors"],
            essentials_category="Image Tools",
            v1_form=True,
            inputs=[io.Image.Input("image")],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: Tensor) -> io.NodeOutput:
        return io.NodeOutput(1.0 - image)


class ImageBatch(io.ComfyNode):
    """`[B1 + B2, H, W, C]`: the second batch is resized to the first, and a missing alpha is opaque."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImageBatch",
            display_name="Batch Images (DEPRECATED)",
            category="image/batch",
            description="Puts two batches into one, the second at the size of the first.",
            search_aliases=["combine images", "merge images", "stack images"],
            is_deprecated=True,
            v1_form=True,
            inputs=[io.Image.Input("image1"), io.Image.Input("image2")],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image1: Tensor, image2: Tensor) -> io.NodeOutput:
        import torch

        channels = max(image1.shape[-1], image2.shape[-1])
        image1, image2 = (
            torch.nn.functional.pad(image, (0, channels - image.shape[-1]), value=1.0)
            for image in (image1, image2)
        )
        if image1.shape[1:] != image2.shape[1:]:
            image2 = resize_images(image2, image1.shape[2], image1.shape[1], "bilinear", "center")
        return io.NodeOutput(torch.cat((image1, image2)))


class ImagePadForOutpaint(io.ComfyNode):
    """A wider canvas, and the mask `[1, H, W]` of what is to be painted, with a soft edge."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        sides = [
            io.Int.Input(side, default=0, min=0, max=MAX_RESOLUTION, step=8)
            for side in ("left", "top", "right", "bottom")
        ]
        return io.Schema(
            node_id="ImagePadForOutpaint",
            display_name="Pad Image for Outpainting",
            category="image/transform",
            description="Adds grey borders and a mask of them, for a model to paint into.",
            search_aliases=["extend canvas", "expand image"],
            v1_form=True,
            inputs=[
                io.Image.Input("image"),
                *sides,
                io.Int.Input("feathering", default=40, min=0, max=MAX_RESOLUTION, step=1, advanced=True),
            ],
            outputs=[io.Image.Output(), io.Mask.Output()],
        )

    @classmethod
    def execute(
        cls, image: Tensor, left: int, top: int, right: int, bottom: int, feathering: int
    ) -> io.NodeOutput:
        return io.NodeOutput(*pad_for_outpaint(image, left, top, right, bottom, feathering))


class ImageCrop(io.ComfyNode):
    """Cuts out a rectangle; what of it lies beyond the picture is not there."""

    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_images"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImageCrop",
            display_name="Crop Image (DEPRECATED)",
            category="image/transform",
            description="Cuts a rectangle out of the pictures.",
            search_aliases=["trim"],
            essentials_category="Image Tools",
            is_deprecated=True,
            inputs=[
                io.Image.Input("image"),
                io.Int.Input("width", default=512, min=1, max=MAX_RESOLUTION, step=1),
                io.Int.Input("height", default=512, min=1, max=MAX_RESOLUTION, step=1),
                io.Int.Input("x", default=0, min=0, max=MAX_RESOLUTION, step=1),
                io.Int.Input("y", default=0, min=0, max=MAX_RESOLUTION, step=1),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: Tensor, width: int, height: int, x: int, y: int) -> io.NodeOutput:
        x = min(x, image.shape[2] - 1)
        y = min(y, image.shape[1] - 1)
        return io.NodeOutput(image[:, y : y + height, x : x + width, :])


NODES = (EmptyImage, ImageScale, ImageScaleBy, ImageInvert, ImageBatch, ImagePadForOutpaint, ImageCrop)
