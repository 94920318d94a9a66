"""Nodes that write pictures: for keeps into the output folder, to look at into the temp folder."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from comfyk import current_app, io, progress
from comfyk.events import PreviewImage as PreviewImageEvent
from comfyk.ui import SavedImages, SavedResult

from comfyk_core_nodes.images.filename import SaveError, Target, find_target, next_counter, resolve_prefix
from comfyk_core_nodes.images.metadata_settings import metadata_settings
from comfyk_core_nodes.images.pixels import to_bytes, to_picture
from comfyk_core_nodes.images.save import save_pngs

if TYPE_CHECKING:
    from torch import Tensor


PREFIX_TOOLTIP = (
    "How the files are called, in front of a number. A slash makes a subfolder. %date:yyyy-MM-dd%, %width% and "
    "%KSampler.seed% (a node's title, class or id, and one of its inputs) are filled in."
)


def destination(
    prefix: str, folder: io.FolderType, hidden: io.HiddenHolder | None, width: int = 0, height: int = 0
) -> tuple[Target, int, dict[str, Any]]:
    """Where files go, the first number to try there, and the prompt and workflow that go into them.

    `width` and `height`, in pixels, are for the prefix. There is no metadata without `hidden`, or when a setting
    says so. Raises SaveError that names the prefix.
    """
    app = current_app()
    prompt = None if hidden is None else hidden.prompt
    root = app.folders.directory(folder.value)
    target = resolve_prefix(prefix, root, width=width, height=height, prompt=prompt)
    metadata: dict[str, Any] = {}
    if hidden is not None and not metadata_settings().disable:
        if prompt is not None:
            metadata["prompt"] = prompt
        metadata.update(hidden.extra_pnginfo or {})
    # A temp name is random, so nothing is counted on from.
    return target, 1 if folder is io.FolderType.temp else next_counter(target), metadata


def results(names: Sequence[str], target: Target, folder: io.FolderType) -> list[SavedResult]:
    """Saved files as clients get them."""
    return [SavedResult(name, target.subfolder, folder) for name in names]


def save(
    images: Tensor, prefix: str, folder: io.FolderType, hidden: io.HiddenHolder | None, compress_level: int
) -> SavedImages:
    """Save `[B, H, W, C]` below the output or temp folder, with the prompt and the workflow in each file.

    Raises SaveError that names the prefix or the file.
    """
    _, height, width = images.shape[:3]
    target, counter, metadata = destination(prefix, folder, hidden, width, height)
    names = save_pngs(images, target, counter, compress_level=compress_level, metadata=metadata)
    return SavedImages(results(names, target, folder))


def show(images: Tensor, hidden: io.HiddenHolder | None = None) -> SavedImages:
    """Save `[B, H, W, C]` into the temp folder under a name of its own, to be shown on a node."""
    suffix = "".join(chr(ord("a") + byte % 26) for byte in os.urandom(5))
    return save(images, f"ComfyUI_temp_{suffix}", io.FolderType.temp, hidden, compress_level=1)


class SavingNode(io.ComfyNode):
    """A node with a `filename_prefix`. One that no file can have is refused before anything runs."""

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        """None stands for one that comes over a link."""
        if filename_prefix is not None:
            try:
                find_target(filename_prefix, current_app().folders.output)
            except SaveError as error:
                return str(error)
        return True


class SaveImage(SavingNode):
    """Writes each of `[B, H, W, C]` to a PNG of its own, and hands the pictures on."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SaveImage",
            display_name="Save Image",
            category="image",
            description="Writes the pictures into the output folder, as PNG files that carry their workflow.",
            search_aliases=["save", "save image", "export image", "output image", "write image", "download"],
            essentials_category="Basics",
            v1_form=True,
            is_output_node=True,
            inputs=[
                io.Image.Input("images", tooltip="What to save."),
                io.String.Input("filename_prefix", default="ComfyUI", tooltip=PREFIX_TOOLTIP),
            ],
            outputs=[io.Image.Output(display_name="images")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, images: Tensor, filename_prefix: str = "ComfyUI") -> io.NodeOutput:
        saved = save(images, filename_prefix, io.FolderType.output, cls.hidden, compress_level=4)
        return io.NodeOutput(images, ui=saved)


class PreviewImage(io.ComfyNode):
    """Writes `[B, H, W, C]` into the temp folder, where they last as long as the job in the history."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PreviewImage",
            display_name="Preview Image",
            category="image",
            description="Shows the pictures without keeping them.",
            search_aliases=[
                "preview",
                "preview image",
                "show image",
                "view image",
                "display image",
                "image viewer",
            ],
            essentials_category="Basics",
            v1_form=True,
            is_output_node=True,
            inputs=[io.Image.Input("images")],
            outputs=[io.Image.Output(display_name="images")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, images: Tensor) -> io.NodeOutput:
        return io.NodeOutput(images, ui=show(images, cls.hidden))


class SaveImageWebsocket(io.ComfyNode):
    """Sends each of `[B, H, W, C]` as a PNG over the WebSocket, and keeps none."""

    RELATIVE_PYTHON_MODULE = "custom_nodes.websocket_image_save"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SaveImageWebsocket",
            display_name="SaveImageWebsocket",
            category="api/image",
            description="Sends the pictures to the client that posted the prompt, without a file.",
            search_aliases=["send image", "websocket image"],
            v1_form=True,
            is_output_node=True,
            inputs=[io.Image.Input("images")],
            outputs=[],
        )

    @classmethod
    def execute(cls, images: Tensor) -> io.NodeOutput:
        pictures = to_bytes(images)
        for number, pixels in enumerate(pictures):
            buffer = BytesIO()
            to_picture(pixels).save(buffer, "PNG", compress_level=1)
            progress(number, len(pictures), PreviewImageEvent(buffer.getvalue(), "PNG", is_result=True))
        return io.NodeOutput()

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> float:
        """Never the same: what was sent once is nowhere."""
        return math.nan


NODES = (SaveImage, PreviewImage, SaveImageWebsocket)
