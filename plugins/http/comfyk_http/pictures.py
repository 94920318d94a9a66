"""Pictures as clients want them shown: previews, single channels, and a mask put into its picture.

All of them stand as upright as their EXIF data says. Everything here works on whole pictures and belongs into the
threads of `comfyk_http.picture_pool`. Pillow is imported when it is first needed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

_WEBP_LIMIT = 16383
_FORMATS_WITH_ALPHA = {".png": "PNG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
_DECODED = 4
"""Bytes of memory for a pixel: Pillow keeps three channels in four bytes too."""
_WORKED_ON = 12
"""The same while it is turned, converted and encoded."""
_MANY_PIXELS = 4_000_000
"""From here on WebP is encoded faster, and a little larger."""


class PictureError(ValueError):
    """The file is not a picture, is broken, or cannot be shown that way."""


class ClientLeft(Exception):
    """Nobody waits for the result any more."""


@dataclass(slots=True)
class Source:
    """A picture's file, and whether anybody still waits for what is made of it."""

    file: Path | BytesIO
    left: bool = False

    def check(self) -> None:
        """Raises ClientLeft when the work is in vain."""
        if self.left:
            raise ClientLeft


class _Reading(io.BufferedReader):
    """A file for Pillow, which reads it piece by piece while it decodes: ends when the client has left."""

    def __init__(self, source: Source) -> None:
        file = source.file
        super().__init__(io.FileIO(file) if isinstance(file, Path) else BytesIO(file.getvalue()))  # type: ignore[arg-type]
        self._source = source

    def read(self, size: int | None = -1, /) -> bytes:
        self._source.check()
        return super().read(size)


@contextmanager
def _opened(source: Source) -> Iterator[Image]:
    """Open a picture; whatever Pillow finds wrong with it then becomes a PictureError."""
    from PIL import Image

    try:
        with _Reading(source) as file, Image.open(file) as image:
            yield image
    except (PictureError, ClientLeft, MemoryError):
        raise
    except FileNotFoundError:
        raise PictureError("the file is gone") from None
    except Exception as error:  # Pillow's decoders raise nearly everything on broken files
        source.check()
        # What Pillow says may name the file's place on this machine.
        raise PictureError("not a picture that can be read: it is damaged or of an unknown kind") from error


def cost_of(source: Source) -> int:
    """How many bytes of memory it takes to show the picture whole. Only its header is read."""
    with _opened(source) as image:
        return image.width * image.height * _WORKED_ON


def _decoded(image: Image, source: Source) -> Image:
    """The picture, read to its end and upright, with 8 bits a channel: as RGB, RGBA or L."""
    from PIL import ImageOps

    image.load()
    source.check()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16"):
        return image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    if image.mode in ("RGB", "RGBA", "L"):
        return image
    return image.convert("RGBA" if "transparency" in image.info or "A" in image.mode else "RGB")


def _fitted(image: Image, source: Source, memory: int, longest: int | None) -> Image:
    """Decode the picture, as small as memory and `longest` (pixels of a side) have it."""
    pixels = image.width * image.height
    scale = max(1.0, 1.0 if longest is None else max(image.size) / longest)
    if pixels * _WORKED_ON > memory:
        scale = max(scale, sqrt(pixels * _WORKED_ON / max(1, memory - _DECODED * pixels, memory // 2)))
    size = max(1, int(image.width / scale)), max(1, int(image.height / scale))
    if scale > 1:
        image.draft("RGB", size)  # a JPEG is decoded at half, a quarter or an eighth of its size
    if image.width * image.height * _DECODED > memory:
        raise PictureError("the picture is too large for the memory that pictures may take")
    shown = _decoded(image, source)
    if scale > 1:
        shown.thumbnail((max(size), max(size)))
    source.check()
    return shown


def preview(source: Source, memory: int, preview: str, channel: str) -> tuple[bytes, str]:
    """A lossy copy for showing: `preview` is such as `webp;90` or `jpeg;70`. Returns the file and its type.

    JPEG holds no alpha, so whoever asks for the alpha channel gets WebP; so does whoever asks for anything else. A
    picture that takes more memory than it may is shown smaller. Raises PictureError and ClientLeft.
    """
    parts = preview.split(";")
    format = parts[0] if parts[0] in ("webp", "jpeg") and "a" not in channel else "webp"
    quality = int(parts[-1]) if parts[-1].isascii() and parts[-1].isdecimal() and len(parts[-1]) < 4 else 90
    options: dict[str, object] = {"quality": max(1, min(quality, 100))}
    with _opened(source) as opened:
        image = _fitted(opened, source, memory, _WEBP_LIMIT if format == "webp" else None)
        if image.mode != "RGB" and (format == "jpeg" or channel == "rgb"):
            image = image.convert("RGB")
        if format == "webp" and image.width * image.height > _MANY_PIXELS:
            options["method"] = 1
        return _saved(image, format, **options), f"image/{format}"


def channel(source: Source, memory: int, channel: str) -> tuple[bytes, str]:
    """A PNG without alpha (`rgb`), or of the alpha alone (`a`), opaque where the picture has none.

    Raises PictureError, also for a picture that takes more memory than it may, and ClientLeft.
    """
    from PIL import Image

    with _opened(source) as opened:
        _refuse_beyond(memory, opened)
        image = _decoded(opened, source)
        if channel == "rgb":
            return _saved(image if image.mode == "RGB" else image.convert("RGB"), "PNG"), "image/png"
        alpha = image.getchannel("A") if image.mode == "RGBA" else Image.new("L", image.size, 255)
        shown = Image.new("RGBA", image.size)
        shown.putalpha(alpha)
        source.check()
        return _saved(shown, "PNG"), "image/png"


def put_mask(source: Source, memory: int, mask: Path, target_name: str) -> None:
    """Give the picture the alpha channel of the file `mask`, and write the result over `mask`.

    Text chunks of the picture are kept. The format follows from `target_name`. Raises PictureError and ClientLeft.
    """
    from PIL.PngImagePlugin import PngInfo

    format = _FORMATS_WITH_ALPHA.get(Path(target_name).suffix.lower())
    if format is None:
        known = ", ".join(_FORMATS_WITH_ALPHA)
        raise PictureError(f"a picture with a mask is saved as one of {known}, not as {target_name!r}")
    with _opened(Source(mask)) as opened:
        _refuse_beyond(memory, opened)
        alpha = _decoded(opened, source).convert("RGBA").getchannel("A")
    with _opened(source) as opened:
        _refuse_beyond(memory, opened)
        metadata = PngInfo()
        for key, text in getattr(opened, "text", {}).items():
            metadata.add_text(key, text)
        picture = _decoded(opened, source).convert("RGBA")
        if picture.size != alpha.size:
            raise PictureError(f"the mask has the size {alpha.size}, its picture {picture.size}")
        picture.putalpha(alpha)
        options = {"compress_level": 4, "pnginfo": metadata} if format == "PNG" else {"lossless": True}
        data = _saved(picture, format, **options)
    mask.write_bytes(data)


def _refuse_beyond(memory: int, image: Image) -> None:
    if image.width * image.height * _WORKED_ON > memory:
        raise PictureError(
            f"a picture of {image.width} x {image.height} takes more than the {memory // 1024**2} MB that pictures "
            "may take (http.picture_memory_mb)"
        )


def _saved(image: Image, format: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()
