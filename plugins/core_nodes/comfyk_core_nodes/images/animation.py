"""Several pictures in one file, shown one after the other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from comfyk_core_nodes.images.save import is_keyword
from comfyk_core_nodes.images.still import exif_of

if TYPE_CHECKING:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

WEBP_METHODS = {"default": 4, "fastest": 0, "slowest": 6}
"""How hard libwebp tries, 0 to 6."""
_WEBP_LONGEST_SIDE = 16383


def _duration(fps: float) -> int:
    """Milliseconds a picture."""
    return int(1000.0 / fps)


def write_webp(
    file: IO[bytes],
    pictures: Sequence[Image.Image],
    *,
    fps: float,
    lossless: bool,
    quality: int,
    method: int,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """An animated WebP. `quality` is 0 to 100; `metadata` goes into EXIF tags, as `key:JSON`.

    Raises ValueError for pictures larger than the format has.
    """
    first, *rest = pictures
    if max(first.size) > _WEBP_LONGEST_SIDE:
        raise ValueError(
            f"a WebP picture has at most {_WEBP_LONGEST_SIDE} pixels a side, and this one has "
            f"{first.width}x{first.height}; scale it down or save it in another format"
        )
    first.save(
        file, "WEBP", save_all=True, append_images=rest, duration=_duration(fps), lossless=lossless,
        quality=quality, method=method, exif=exif_of(metadata or {}),
    )  # fmt: skip


def write_apng(
    file: IO[bytes],
    pictures: Sequence[Image.Image],
    *,
    fps: float,
    compress_level: int,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """An animated PNG. `metadata` goes into ComfyUI's own chunks `comf`: key, a zero byte, JSON."""
    first, *rest = pictures
    first.save(
        file, "PNG", save_all=True, append_images=rest, duration=_duration(fps), loop=0,
        compress_level=compress_level, pnginfo=_comf_chunks(metadata or {}),
    )  # fmt: skip


def _comf_chunks(metadata: Mapping[str, Any]) -> PngInfo:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in metadata.items():
        if is_keyword(key):
            info.add(
                b"comf", key.encode("latin-1") + b"\0" + json.dumps(value).encode("ascii"), after_idat=True
            )
    return info
