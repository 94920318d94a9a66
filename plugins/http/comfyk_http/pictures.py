"""Pictures as clients want them shown: previews, single channels, and a mask put into its picture.

Everything here works on whole pictures and belongs into a thread. Pillow is imported when it is first needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

_WEBP_LIMIT = 16383
_FORMATS_WITH_ALPHA = {".png": "PNG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}


class PictureError(ValueError):
    """The file is not a picture, is broken, or cannot be shown that way."""


@contextmanager
def _opened(path: Path | BytesIO) -> Iterator[Image]:
    """Open a picture; whatever Pillow finds wrong with it then becomes a PictureError."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    except PictureError:
        raise
    except FileNotFoundError:
        raise PictureError("the file is gone") from None
    except MemoryError:
        raise PictureError("the picture is too large") from None
    except Exception as error:  # Pillow's decoders raise nearly everything on broken files
        # What Pillow says may name the file's place on this machine.
        raise PictureError("not a picture that can be read: it is damaged or of an unknown kind") from error


def _visible(image: Image) -> Image:
    """The picture, read to its end, with 8 bits a channel: as RGB, RGBA or L."""
    image.load()
    if image.mode.startswith("I;16"):
        return image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    if image.mode in ("RGB", "RGBA", "L"):
        return image
    return image.convert("RGBA" if "transparency" in image.info or "A" in image.mode else "RGB")


def preview(path: Path | BytesIO, preview: str, channel: str) -> tuple[bytes, str]:
    """A lossy copy for showing: `preview` is such as `webp;90` or `jpeg;70`. Returns the file and its type.

    JPEG holds no alpha, so whoever asks for the alpha channel gets WebP; so does whoever asks for anything else.
    """
    parts = preview.split(";")
    format = parts[0] if parts[0] in ("webp", "jpeg") and "a" not in channel else "webp"
    quality = int(parts[-1]) if parts[-1].isascii() and parts[-1].isdecimal() and len(parts[-1]) < 4 else 90
    with _opened(path) as opened:
        image = _visible(opened)
        if format == "jpeg" or channel == "rgb":
            image = image.convert("RGB")
        if format == "webp" and max(image.size) > _WEBP_LIMIT:
            image = image.copy()
            image.thumbnail((_WEBP_LIMIT, _WEBP_LIMIT))
        return _saved(image, format, quality=max(1, min(quality, 100))), f"image/{format}"


def channel(path: Path, channel: str) -> tuple[bytes, str]:
    """A PNG without alpha (`rgb`), or of the alpha alone (`a`), opaque where the picture has none."""
    from PIL import Image

    with _opened(path) as opened:
        image = _visible(opened)
        if channel == "rgb":
            return _saved(image.convert("RGB"), "PNG"), "image/png"
        alpha = image.getchannel("A") if image.mode == "RGBA" else Image.new("L", image.size, 255)
        shown = Image.new("RGBA", image.size)
        shown.putalpha(alpha)
        return _saved(shown, "PNG"), "image/png"


def put_mask(original: Path, mask: Path, target_name: str) -> None:
    """Give the picture `original` the alpha channel of the file `mask`, and write the result over `mask`.

    Text chunks of the original are kept. The format follows from `target_name`.
    """
    from PIL.PngImagePlugin import PngInfo

    format = _FORMATS_WITH_ALPHA.get(Path(target_name).suffix.lower())
    if format is None:
        known = ", ".join(_FORMATS_WITH_ALPHA)
        raise PictureError(f"a picture with a mask is saved as one of {known}, not as {target_name!r}")
    with _opened(mask) as opened:
        alpha = opened.convert("RGBA").getchannel("A")
    with _opened(original) as opened:
        metadata = PngInfo()
        for key, text in getattr(opened, "text", {}).items():
            metadata.add_text(key, text)
        picture = opened.convert("RGBA")
        if picture.size != alpha.size:
            raise PictureError(f"the mask has the size {alpha.size}, its picture {picture.size}")
        picture.putalpha(alpha)
        options = {"compress_level": 4, "pnginfo": metadata} if format == "PNG" else {"lossless": True}
        data = _saved(picture, format, **options)
    mask.write_bytes(data)


def _saved(image: Image, format: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()
