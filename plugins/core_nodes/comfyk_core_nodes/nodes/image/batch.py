"""Nodes that take batches of pictures apart and put them together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from comfyk import io

from comfyk_core_nodes.images.tiles import merge_tiles, split_into_tiles
from comfyk_core_nodes.nodes.limits import MAX_RESOLUTION

if TYPE_CHECKING:
    from torch import Tensor

_MODULE = "comfy_extras.nodes_images"
_CATEGORY = "image/batch"
_TILE_ALIASES = ("split image", "tile image", "slice image")


class RepeatImageBatch(io.ComfyNode):
    """`[B * amount, H, W, C]`: the whole batch over and over."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RepeatImageBatch",
            display_name="Repeat Image Batch",
            category=_CATEGORY,
            description="Repeats the pictures.",
            search_aliases=["duplicate image", "clone image"],
            inputs=[io.Image.Input("image"), io.Int.Input("amount", default=1, min=1, max=4096)],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: Tensor, amount: int) -> io.NodeOutput:
        return io.NodeOutput(image.repeat(amount, 1, 1, 1))


class ImageFromBatch(io.ComfyNode):
    """Some pictures of a batch, at least one; a negative index counts from the end."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImageFromBatch",
            display_name="Get Image from Batch",
            category=_CATEGORY,
            description="Takes pictures out of a batch.",
            search_aliases=["select image", "pick from batch", "extract image"],
            inputs=[
                io.Image.Input("image"),
                io.Int.Input("batch_index", default=0, min=-MAX_RESOLUTION, max=MAX_RESOLUTION),
                io.Int.Input("length", default=1, min=1, max=4096),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: Tensor, batch_index: int, length: int) -> io.NodeOutput:
        batch = image.shape[0]
        start = max(0, min(batch - 1, batch_index + batch if batch_index < 0 else batch_index))
        # A copy, so that the rest of the batch need not stay in memory.
        return io.NodeOutput(image[start : start + length].clone())


class RebatchImages(io.ComfyNode):
    """The pictures of a list of batches, in batches of another size."""

    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_rebatch"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RebatchImages",
            display_name="Rebatch Images",
            category=_CATEGORY,
            description="Regroups pictures into batches of a given size.",
            is_input_list=True,
            inputs=[io.Image.Input("images"), io.Int.Input("batch_size", default=1, min=1, max=4096)],
            outputs=[io.Image.Output(is_output_list=True)],
        )

    @classmethod
    def execute(cls, images: Sequence[Tensor], batch_size: Sequence[int]) -> io.NodeOutput:
        import torch

        pictures = [picture for batch in images for picture in batch]
        size = batch_size[0]
        return io.NodeOutput(
            [torch.stack(pictures[start : start + size]) for start in range(0, len(pictures), size)]
        )


class SplitImageToTileList(io.ComfyNode):
    """A list of overlapping tiles, row by row."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SplitImageToTileList",
            display_name="Split Image into List of Tiles",
            category=_CATEGORY,
            description="Cuts the pictures into tiles that overlap.",
            search_aliases=list(_TILE_ALIASES),
            inputs=[
                io.Image.Input("image"),
                io.Int.Input("tile_width", default=1024, min=64, max=MAX_RESOLUTION),
                io.Int.Input("tile_height", default=1024, min=64, max=MAX_RESOLUTION),
                io.Int.Input("overlap", default=128, min=0, max=4096),
            ],
            outputs=[io.Image.Output(is_output_list=True)],
        )

    @classmethod
    def execute(cls, image: Tensor, tile_width: int, tile_height: int, overlap: int) -> io.NodeOutput:
        return io.NodeOutput(split_into_tiles(image, tile_width, tile_height, overlap))


class ImageMergeTileList(io.ComfyNode):
    """One picture from a list of tiles, which fade into each other where they overlap."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImageMergeTileList",
            display_name="Merge List of Tiles to Image",
            category=_CATEGORY,
            description="Puts tiles together again. Size and overlap are those that the picture was split with.",
            search_aliases=list(_TILE_ALIASES),
            is_input_list=True,
            inputs=[
                io.Image.Input("image_list"),
                io.Int.Input("final_width", default=1024, min=64, max=32768),
                io.Int.Input("final_height", default=1024, min=64, max=32768),
                io.Int.Input("overlap", default=128, min=0, max=4096),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(
        cls,
        image_list: Sequence[Tensor],
        final_width: Sequence[int],
        final_height: Sequence[int],
        overlap: Sequence[int],
    ) -> io.NodeOutput:
        return io.NodeOutput(merge_tiles(image_list, final_width[0], final_height[0], overlap[0]))


NODES = (RepeatImageBatch, ImageFromBatch, RebatchImages, SplitImageToTileList, ImageMergeTileList)
