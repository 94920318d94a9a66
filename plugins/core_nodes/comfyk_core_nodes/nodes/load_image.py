"""Nodes that load pictures from the input, output and temp folders."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from comfyk import current_app, io
from comfyk.folders import PathOutsideError

from comfyk_core_nodes.images.load import EXTENSIONS, ImageReadError, load_image

if TYPE_CHECKING:
    from torch import Tensor

CHANNELS = ("alpha", "red", "green", "blue")


def input_images() -> list[str]:
    """The pictures in the input folder itself, sorted; subfolders are reached by naming them."""
    try:
        with os.scandir(current_app().folders.input) as entries:
            return sorted(
                entry.name
                for entry in entries
                if os.path.splitext(entry.name)[1].lower() in EXTENSIONS and entry.is_file()
            )
    except FileNotFoundError:
        return []


def find_image(name: str) -> Path:
    """The file for `sub/photo.png [output]`. Raises ImageReadError when there is none inside the folder."""
    try:
        path = current_app().folders.annotated(name)
    except PathOutsideError as error:
        raise ImageReadError(f"Invalid image file: {name} ({error})") from None
    if not path.is_file():
        raise ImageReadError(
            f"Invalid image file: {name} (there is no such file; upload it or choose another)"
        )
    return path


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
    """The SHA-256 of the file; NaN, which is never the same, for a name that comes over a link."""
    import hashlib

    if image is None:
        return math.nan
    with open(find_image(image), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
            list_combos=True,
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
            list_combos=True,
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


NODES = (LoadImage, LoadImageMask)
