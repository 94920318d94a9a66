"""Nodes that write pictures in other forms than 8-bit PNG: animations, 16 bits, floats, vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any, Protocol

from comfyk import check_interrupted, io
from comfyk.ui import SavedImages

from comfyk_core_nodes.images import deep
from comfyk_core_nodes.images.animation import WEBP_METHODS, write_apng, write_webp
from comfyk_core_nodes.images.pixels import to_bytes, to_picture
from comfyk_core_nodes.images.save import save_file, save_pngs
from comfyk_core_nodes.images.still import EXTENSIONS, write_still
from comfyk_core_nodes.images.svg import with_metadata
from comfyk_core_nodes.nodes.image.save import PREFIX_TOOLTIP, SavingNode, destination, results

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image as Picture
    from torch import Tensor

_MODULE = "comfy_extras.nodes_images"


class SaveAnimatedWEBP(SavingNode):
    """Writes `[B, H, W, C]` as one animation, and hands the pictures on."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SaveAnimatedWEBP",
            display_name="Save Animated WEBP",
            category="image",
            description="Writes the pictures into the output folder as one animated WebP file.",
            is_output_node=True,
            inputs=[
                io.Image.Input("images"),
                io.String.Input("filename_prefix", default="ComfyUI", tooltip=PREFIX_TOOLTIP),
                io.Float.Input(
                    "fps", default=6.0, min=0.01, max=1000.0, step=0.01, tooltip="Pictures a second."
                ),
                io.Boolean.Input("lossless", default=True),
                io.Int.Input("quality", default=80, min=0, max=100),
                io.Combo.Input(
                    "method", options=tuple(WEBP_METHODS), tooltip="How hard it tries to get small."
                ),
            ],
            outputs=[io.Image.Output(display_name="images")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(
        cls, images: Tensor, fps: float, filename_prefix: str, lossless: bool, quality: int, method: str
    ) -> io.NodeOutput:
        def write(file: IO[bytes], pictures: Sequence[Picture], metadata: Mapping[str, Any]) -> None:
            write_webp(
                file, pictures, fps=fps, lossless=lossless, quality=quality, method=WEBP_METHODS[method],
                metadata=metadata,
            )  # fmt: skip

        return io.NodeOutput(images, ui=_save_animation(images, filename_prefix, ".webp", write, cls.hidden))


class SaveAnimatedPNG(SavingNode):
    """Writes `[B, H, W, C]` as one animation, and hands the pictures on."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SaveAnimatedPNG",
            display_name="Save Animated PNG",
            category="image",
            description="Writes the pictures into the output folder as one animated PNG file.",
            is_output_node=True,
            inputs=[
                io.Image.Input("images"),
                io.String.Input("filename_prefix", default="ComfyUI", tooltip=PREFIX_TOOLTIP),
                io.Float.Input(
                    "fps", default=6.0, min=0.01, max=1000.0, step=0.01, tooltip="Pictures a second."
                ),
                io.Int.Input("compress_level", default=4, min=0, max=9, advanced=True),
            ],
            outputs=[io.Image.Output(display_name="images")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(
        cls, images: Tensor, fps: float, compress_level: int, filename_prefix: str = "ComfyUI"
    ) -> io.NodeOutput:
        def write(file: IO[bytes], pictures: Sequence[Picture], metadata: Mapping[str, Any]) -> None:
            write_apng(file, pictures, fps=fps, compress_level=compress_level, metadata=metadata)

        return io.NodeOutput(images, ui=_save_animation(images, filename_prefix, ".png", write, cls.hidden))


class _Writer(Protocol):
    def __call__(
        self, file: IO[bytes], pictures: Sequence[Picture], metadata: Mapping[str, Any], /
    ) -> None: ...


def _save_animation(
    images: Tensor, prefix: str, extension: str, write: _Writer, hidden: io.HiddenHolder
) -> SavedImages:
    folder = io.FolderType.output
    batch, height, width = images.shape[:3]
    target, counter, metadata = destination(prefix, folder, hidden, width, height)
    pictures = [to_picture(pixels) for pixels in to_bytes(images)]
    name, _ = save_file(target, counter, extension, lambda file: write(file, pictures, metadata))
    return SavedImages(results([name], target, folder), is_animated=batch > 1)


class SaveImageAdvanced(SavingNode):
    """Writes each of `[B, H, W, C]` as a PNG with 8 or 16 bits, or as linear light in an EXR file."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        png = io.DynamicCombo.Option(
            "png",
            [
                io.Combo.Input("bit_depth", options=("8-bit", "16-bit"), default="8-bit", advanced=True),
                io.Combo.Input("input_color_space", options=("sRGB",), default="sRGB", advanced=True),
            ],
        )
        exr = io.DynamicCombo.Option(
            "exr",
            [
                io.Combo.Input("bit_depth", options=("32-bit float",), default="32-bit float", advanced=True),
                io.Combo.Input(
                    "input_color_space",
                    options=("sRGB", "HDR", "linear"),
                    default="sRGB",
                    advanced=True,
                    tooltip="What the values of the pictures are. The file has linear light in any case.\n"
                    "sRGB: as nearly all nodes give them.\n"
                    "HDR: HLG with the colours of BT.2020.\n"
                    "linear: linear light with the colours of BT.709, written as it is.",
                ),
            ],
        )
        return io.Schema(
            node_id="SaveImageAdvanced",
            display_name="Save Image (Advanced)",
            category="image",
            description="Writes the pictures into the output folder, with more bits than SaveImage if you like.",
            search_aliases=["save", "save image", "export image", "output image", "write image"],
            essentials_category="Basics",
            is_output_node=True,
            inputs=[
                io.Image.Input("images", tooltip="What to save."),
                io.String.Input("filename_prefix", default="ComfyUI", tooltip=PREFIX_TOOLTIP),
                io.DynamicCombo.Input("format", options=(png, exr), tooltip="The kind of file."),
            ],
            outputs=[io.Image.Output(display_name="images")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, images: Tensor, filename_prefix: str, format: Mapping[str, str]) -> io.NodeOutput:
        folder = io.FolderType.output
        pictures = images.unsqueeze(-1) if images.ndim == 3 else images
        _, height, width = pictures.shape[:3]
        target, counter, metadata = destination(filename_prefix, folder, cls.hidden, width, height)
        names = []
        if (format["format"], format["bit_depth"]) == ("png", "8-bit"):
            names = save_pngs(pictures, target, counter, compress_level=4, metadata=metadata, tail="")
        else:
            for number, pixels in enumerate(pictures):
                check_interrupted()
                extension, data = _deep_file(pixels, format, metadata)
                name, counter = save_file(
                    target, counter, extension, lambda file, data=data: file.write(data),
                    batch_number=number, tail="",
                )  # fmt: skip
                names.append(name)
                counter += 1
        return io.NodeOutput(images, ui=SavedImages(results(names, target, folder)))


class SaveImageAs(SavingNode):
    """Writes each of `[B, H, W, C]` as PNG, JPEG, WebP or AVIF, and hands the pictures on. comfyk's own."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        def quality(default: int, tooltip: str = "More is better and larger.") -> io.Int.Input:
            return io.Int.Input("quality", default=default, min=1, max=100, tooltip=tooltip)

        options = (
            io.DynamicCombo.Option(
                "png", [io.Int.Input("compress_level", default=4, min=0, max=9, advanced=True)]
            ),
            io.DynamicCombo.Option(
                "jpeg", [quality(90), io.Boolean.Input("progressive", default=False, advanced=True)]
            ),
            io.DynamicCombo.Option(
                "webp",
                [quality(90), io.Boolean.Input("lossless", default=False, tooltip="As it is, bit for bit.")],
            ),
            io.DynamicCombo.Option("avif", [quality(80)]),
        )
        return io.Schema(
            node_id="SaveImageAs",
            display_name="Save Image As",
            category="image",
            description="Writes the pictures into the output folder in the format of your choice, with their workflow.",
            search_aliases=["save jpg", "save jpeg", "save webp", "save avif", "export image"],
            is_output_node=True,
            inputs=[
                io.Image.Input("images", tooltip="What to save."),
                io.String.Input("filename_prefix", default="ComfyUI", tooltip=PREFIX_TOOLTIP),
                io.DynamicCombo.Input("format", options=options, tooltip="The kind of file."),
            ],
            outputs=[io.Image.Output(display_name="images")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, images: Tensor, filename_prefix: str, format: Mapping[str, Any]) -> io.NodeOutput:
        folder = io.FolderType.output
        _, height, width = images.shape[:3]
        target, counter, metadata = destination(filename_prefix, folder, cls.hidden, width, height)
        options = dict(format)
        kind: str = options.pop("format")
        if kind == "png":
            names = save_pngs(images, target, counter, metadata=metadata, **options)
            return io.NodeOutput(images, ui=SavedImages(results(names, target, folder)))
        names = []
        for number, pixels in enumerate(to_bytes(images)):
            check_interrupted()
            picture = to_picture(pixels)

            def write(file: IO[bytes], picture: Picture = picture) -> None:
                write_still(file, picture, kind, metadata, **options)

            name, counter = save_file(target, counter, EXTENSIONS[kind], write, batch_number=number)
            names.append(name)
            counter += 1
        return io.NodeOutput(images, ui=SavedImages(results(names, target, folder)))


def _deep_file(pixels: Tensor, format: Mapping[str, str], metadata: Mapping[str, Any]) -> tuple[str, bytes]:
    if format["format"] == "png":
        return ".png", deep.png16(pixels, metadata)
    space = format.get("input_color_space", "sRGB")
    if space == "HDR":
        return ".exr", deep.exr(deep.hlg_to_linear(pixels), "Rec.2020", metadata)
    return ".exr", deep.exr(deep.srgb_to_linear(pixels) if space == "sRGB" else pixels, "Rec.709", metadata)


class SvgPictures(Protocol):
    """What nodes hand on as SVG."""

    data: Sequence[IO[bytes]]
    """UTF-8 text each."""


class SaveSVGNode(SavingNode):
    """Writes SVG pictures, and hands them on."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SaveSVGNode",
            display_name="Save SVG",
            category="image",
            description="Writes vector pictures into the output folder.",
            search_aliases=["export vector", "save vector graphics"],
            is_output_node=True,
            inputs=[
                io.SVG.Input("svg"),
                io.String.Input("filename_prefix", default="svg/ComfyUI", tooltip=PREFIX_TOOLTIP),
            ],
            outputs=[io.SVG.Output("svg")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, svg: SvgPictures, filename_prefix: str = "svg/ComfyUI") -> io.NodeOutput:
        folder = io.FolderType.output
        target, counter, metadata = destination(filename_prefix, folder, cls.hidden)
        names = []
        for number, picture in enumerate(svg.data):
            picture.seek(0)
            try:
                text = picture.read().decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"SVG picture {number} is no UTF-8 text ({error})") from error
            data = with_metadata(text, metadata).encode("utf-8")
            name, counter = save_file(
                target, counter, ".svg", lambda file, data=data: file.write(data), batch_number=number
            )
            names.append(name)
            counter += 1
        return io.NodeOutput(svg, ui=SavedImages(results(names, target, folder)))


NODES = (SaveAnimatedWEBP, SaveAnimatedPNG, SaveImageAdvanced, SaveImageAs, SaveSVGNode)
