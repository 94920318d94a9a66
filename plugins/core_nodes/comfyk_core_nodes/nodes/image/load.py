"""Nodes that load pictures from the input, output and temp folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from comfyk import io

from comfyk_core_nodes.images.load import EXTENSIONS, ImageReadError, load_image
from comfyk_core_nodes.nodes.image.input_files import (
    InputFileError,
    find_input,
    fingerprint,
    input_files,
)

if TYPE_CHECKING:
    from torch import Tensor

CHANNELS = ("alpha", "red", "green", "blue")


def input_images() -> list[str]:
    """The pictures in the input folder itself, sorted; subfolders are reached by naming them."""
    return input_files(EXTENSIONS)


def find_image(name: str) -> Path:
    """The file for `sub/photo.png [output]`. Raises ImageReadError when there is none inside the folder."""
    try:
        return find_input(name)
    except InputFileError as error:
        raise ImageReadError(f"Invalid image file: {error}") from None


def _validate(image: str | None) -> bool | str:
    """None stands for a name that comes over a link; it is checked when it is there."""
    if image is None:
        return True
    try:
        find_image(image)
    except ImageReadError:
        return f"Invalid image file: {image}"
    return True


def _fingerprint(image: str | None) -> str | float:
    return fingerprint(None if image is None else find_image(image))


def _image_input() -> io.Combo.Input:
    return io.Combo.Input("image", options=input_images, upload=io.UploadType.image)


class LoadImage(io.ComfyNode):
    """Gives the picture `[B, H, W, 3]` and the mask `[B, H, W]`, 1 where the picture is transparent."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadImage",
            display_name="Load Image",
            category="image",
            description="Reads a picture or an animation. Transparency becomes the mask.",
            search_aliases=[
                "load image",
                "open image",
                "import image",
                "image input",
                "upload image",
                "read image",
                "image loader",
            ],
            essentials_category="Basics",
            v1_form=True,
            inputs=[_image_input()],
            outputs=[io.Image.Output(), io.Mask.Output()],
        )

    @classmethod
    def execute(cls, image: str) -> io.NodeOutput:
        return io.NodeOutput(*load_image(find_image(image), image))

    @classmethod
    def fingerprint_inputs(cls, image: str | None) -> str | float:
        return _fingerprint(image)

    @classmethod
    def validate_inputs(cls, image: str | None) -> bool | str:
        return _validate(image)


class LoadImageMask(io.ComfyNode):
    """Gives one channel of a picture as a mask `[B, H, W]`; `alpha` is 1 where the picture is transparent."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadImageMask",
            display_name="Load Image (as Mask)",
            category="image",
            description="Reads one channel of a picture as a mask.",
            search_aliases=["import mask", "alpha mask", "channel mask"],
            essentials_category="Image Tools",
            v1_form=True,
            inputs=[_image_input(), io.Combo.Input("channel", options=CHANNELS)],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, image: str, channel: str) -> io.NodeOutput:
        images, masks = load_image(find_image(image), image)
        return io.NodeOutput(masks if channel == "alpha" else _channel(images, channel))

    @classmethod
    def fingerprint_inputs(cls, image: str | None, channel: str | None) -> str | float:
        return _fingerprint(image)

    @classmethod
    def validate_inputs(cls, image: str | None) -> bool | str:
        return _validate(image)


def _channel(images: Tensor, channel: str) -> Tensor:
    """A copy, so that the mask does not keep the whole picture in memory."""
    return images[..., ("red", "green", "blue").index(channel)].clone()


class LoadImageOutput(io.ComfyNode):
    """As LoadImage, with the output folder's files, the newest first, to choose from."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadImageOutput",
            display_name="Load Image (from Outputs)",
            category="image",
            description="Reads a picture of the output folder. The refresh button chooses the newest.",
            search_aliases=["output image", "previous generation"],
            essentials_category="Basics",
            is_experimental=True,
            # A combo that has no options here: the client asks the route for them.
            v1_form=True,
            inputs=[
                io.Custom("COMBO").Input(
                    "image",
                    extra_dict={
                        io.UploadType.image.value: True,
                        "image_folder": io.FolderType.output.value,
                        "remote": io.RemoteOptions("/internal/files/output", refresh_button=True).as_dict(),
                    },
                )
            ],
            outputs=[io.Image.Output(), io.Mask.Output()],
        )

    @classmethod
    def execute(cls, image: str) -> io.NodeOutput:
        return io.NodeOutput(*load_image(find_image(image), image))

    @classmethod
    def fingerprint_inputs(cls, image: str | None) -> str | float:
        return _fingerprint(image)

    @classmethod
    def validate_inputs(cls, image: str | None) -> bool | str:
        return _validate(image)


NODES = (LoadImage, LoadImageMask, LoadImageOutput)
