"""One picture in a file of the usual formats, with its workflow inside."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any

from comfyk import progress_text

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

EXTENSIONS = {"jpeg": ".jpg", "webp": ".webp", "avif": ".avif"}
_LONGEST_SIDE = {"jpeg": 65_500, "webp": 16_383, "avif": 65_536}
_JPEG_EXIF_MAX = 65_533 - len(b"Exif\0\0")
"""Bytes: of a JPEG the EXIF data are one segment."""
# Where ComfyUI looks for them: the prompt in the tag of the camera's model, the rest in that of its maker and in those
# that count down from there.
_PROMPT_TAG = 0x0110
_FIRST_EXTRA_TAG = 0x010F


def exif_of(metadata: Mapping[str, Any]) -> Image.Exif:
    """Prompt and workflow as EXIF tags, `key:JSON` each."""
    from PIL import Image

    exif = Image.Exif()
    tag = _FIRST_EXTRA_TAG
    for key, value in metadata.items():
        text = f"{key}:{json.dumps(value)}"
        if key == "prompt":
            exif[_PROMPT_TAG] = text
        elif tag > 0:
            exif[tag] = text
            tag -= 1
    return exif


def write_still(
    file: IO[bytes], picture: Image.Image, format: str, metadata: Mapping[str, Any], **options: Any
) -> None:
    """Write a picture as `jpeg`, `webp` or `avif`; `options` are Pillow's for the format.

    A JPEG has no transparency, which is taken away, and no room for a workflow of more than 64 kB, which is then left
    out with a warning on the node. Raises ValueError for a picture that is larger than the format has.
    """
    longest = _LONGEST_SIDE[format]
    if max(picture.size) > longest:
        raise ValueError(
            f"{format} has at most {longest:,} pixels a side, and this picture has {picture.width}x{picture.height}: "
            f"scale it down or save it as PNG"
        )
    if format == "jpeg" and picture.mode == "RGBA":
        picture = picture.convert("RGB")
    exif = exif_of(metadata).tobytes() if metadata else b""
    if format == "jpeg" and len(exif) > _JPEG_EXIF_MAX:
        message = f"the workflow of {len(exif):,} bytes does not fit into a JPEG and is left out; WebP and PNG take it"
        log.warning(message)
        progress_text(f"Warning: {message}")
        exif = b""
    picture.save(file, format.upper(), **({"exif": exif} if exif else {}), **options)
