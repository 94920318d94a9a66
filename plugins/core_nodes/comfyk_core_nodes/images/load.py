"""Reading pictures: one file, still or animated, becomes a batch of frames and one of masks."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from comfyk import Interrupted, check_interrupted

from comfyk_core_nodes.images.reader import TooLargeError, check_memory, load_what_is_there, open_picture

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor

log = logging.getLogger(__name__)

EXTENSIONS = frozenset(
    {
        ".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe",
        ".jpeg", ".jpg", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".qoi", ".tga", ".tif",
        ".tiff", ".webp",
    }
)  # fmt: skip
"""What is listed as a picture. Whether Pillow reads it (AVIF, HEIC) shows when it is loaded."""

NO_MASK_SIZE = 64
"""Side of the empty mask of a picture without transparency."""

_ANIMATED_FORMATS = frozenset({"GIF", "PNG", "WEBP", "AVIF", "TIFF"})
"""Formats whose frames make a batch. Those of MPO, PSD or HEIF are other views, layers or thumbnails."""
_FRAMES_BETWEEN_CHECKS = 64
_ORIENTATION_TAG = 0x0112
# What Pillow's `transpose` has to do for each EXIF orientation, by the names of `Image.Transpose`.
_TRANSPOSE = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
# Pillow reads colours of 16 bits by their high bytes; another raw mode gives the low ones of the same data.
_LOW_BYTES = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}


class ImageReadError(ValueError):
    """A picture cannot be read; the message names the file and says what to do."""


@dataclass(slots=True)
class _Frame:
    color: np.ndarray
    """`[H, W]` or `[H, W, 3]`, divided by `white` it is in 0..1."""
    white: int
    alpha: np.ndarray | None
    """`[H, W]`, on the same scale."""


def load_image(path: Path, name: str) -> tuple[Tensor, Tensor]:
    """The pictures `[B, H, W, 3]` and masks `[B, H, W]` of a file, float32 in 0..1 on the CPU.

    EXIF rotation is applied. The mask is `1 - alpha`; without transparency it is zeros `[B, 64, 64]`. Frames
    of another size than the first are left out. `name` is what messages call the file. Raises ImageReadError.
    """
    import numpy as np
    import torch

    frames = _read(path, name)
    height, width = frames[0].color.shape[:2]
    images = np.empty((len(frames), height, width, 3), np.float32)
    masked = any(frame.alpha is not None for frame in frames)
    masks = np.zeros(
        (len(frames), *((height, width) if masked else (NO_MASK_SIZE, NO_MASK_SIZE))), np.float32
    )
    for frame, image, mask in zip(frames, images, masks, strict=True):
        color = frame.color if frame.color.ndim == 3 else frame.color[..., None]
        np.divide(color, np.float32(frame.white), out=image, dtype=np.float32)
        if frame.alpha is not None:
            np.divide(frame.alpha, np.float32(frame.white), out=mask, dtype=np.float32)
            np.subtract(np.float32(1), mask, out=mask)
    return torch.from_numpy(images), torch.from_numpy(masks)


def _read(path: Path, name: str) -> list[_Frame]:
    from PIL import Image, UnidentifiedImageError

    frames: list[_Frame] = []
    try:
        with open_picture(path) as picture:
            for still in _stills(picture, name):
                check_interrupted()
                try:
                    frame = _frame(still, path)
                except MemoryError:
                    raise
                except Exception as error:
                    if not frames:
                        raise
                    log.warning("%s: the animation is damaged after %d frames (%s)", name, len(frames), error)
                    break
                if not frames or frame.color.shape[:2] == frames[0].color.shape[:2]:
                    frames.append(frame)
                    if len(frames) % _FRAMES_BETWEEN_CHECKS == 0:
                        check_memory(still.width, still.height, len(frames))
    except Interrupted:
        raise
    except FileNotFoundError:
        raise ImageReadError(f"{name}: there is no such file; upload it again or choose another") from None
    except UnidentifiedImageError:
        raise ImageReadError(
            f"{name}: the file is damaged or no picture that Pillow reads here; save it as PNG, JPEG or WebP"
        ) from None
    except (Image.DecompressionBombError, TooLargeError, MemoryError) as error:
        raise ImageReadError(
            f"{name}: the picture is too large for this machine; scale it down first ({error})"
        ) from error
    except Exception as error:  # Pillow's readers raise whatever a broken file leads them to
        raise ImageReadError(f"{name}: the file is damaged; save or upload it again ({error})") from error
    if not frames:
        raise ImageReadError(f"{name}: the file holds no picture; save or upload it again")
    return frames


def _stills(picture: Image.Image, name: str) -> Iterator[Image.Image]:
    """The frames of an animation; those before the place where a damaged one ends."""
    if picture.format not in _ANIMATED_FORMATS:
        yield picture
        return
    try:
        count = int(getattr(picture, "n_frames", 1))
    except Exception:  # where one of them cannot be found, they are gone through as far as it goes
        count = _FRAMES_BETWEEN_CHECKS
    check_memory(*picture.size, count)
    # The first picture of an APNG may be only for programs that cannot show the animation.
    first = 1 if picture.info.get("default_image") and count > 1 else 0
    for number in itertools.count(first):
        try:
            picture.seek(number)
        except EOFError:
            return
        except Exception as error:
            if number == first:
                raise
            log.warning("%s: the animation is damaged after %d frames (%s)", name, number - first, error)
            return
        yield picture


def _frame(still: Image.Image, path: Path) -> _Frame:
    import numpy as np

    raw_mode = _raw_mode(still)
    load_what_is_there(still)  # which turns a TIFF upright, so its orientation is known only now
    orientation = _orientation(still)
    if still.mode == "I" or still.mode.startswith("I;16"):
        color = np.clip(np.asarray(_upright(still, orientation)), 0, 65535)
        clear = still.info.get("transparency")
        alpha = np.where(color == clear, 0, 65535) if isinstance(clear, int) else None
        return _Frame(color, 65535, alpha)
    if still.mode == "F":
        color = np.clip(np.nan_to_num(np.asarray(_upright(still, orientation))), 0, 1)
        return _Frame(color, 1, None)
    if raw_mode in _LOW_BYTES:
        high = np.asarray(_upright(still, orientation), np.uint16)
        low = np.asarray(_upright(_reopen(path, _LOW_BYTES[raw_mode]), orientation), np.uint16)
        return _split(high << 8 | low, 65535)
    if raw_mode == "LA;16B":
        # Read as four bytes: the high and the low one of grey, then of alpha.
        pair = np.asarray(_upright(_reopen(path, "RGBA"), orientation), np.uint16)
        pair = pair[..., 0::2] << 8 | pair[..., 1::2]
        return _Frame(pair[..., 0], 65535, pair[..., 1])
    if still.has_transparency_data:
        still = still.convert("RGBA")
    elif still.mode != "L":
        still = still.convert("RGB")
    return _split(np.asarray(_upright(still, orientation)), 255)


def _split(pixels: np.ndarray, white: int) -> _Frame:
    if pixels.shape[-1] == 4 and pixels.ndim == 3:
        return _Frame(pixels[..., :3], white, pixels[..., 3])
    return _Frame(pixels, white, None)


def _raw_mode(still: Image.Image) -> str | None:
    """How a PNG that is not loaded yet stores its colours, when 16 bits can be had from it."""
    tiles = getattr(still, "tile", None)
    if still.format != "PNG" or not tiles or len(tiles) != 1 or "transparency" in still.info:
        return None
    return tiles[0].args if isinstance(tiles[0].args, str) else None


def _reopen(path: Path, raw_mode: str) -> Image.Image:
    from PIL import ImageFile

    with open_picture(path) as picture:
        assert isinstance(picture, ImageFile.ImageFile)
        picture.tile = [picture.tile[0]._replace(args=raw_mode)]
        load_what_is_there(picture)
        return picture.copy()


def _orientation(still: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) when the file has none that can be read."""
    try:
        return int(still.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # a picture with broken EXIF data is still a picture
        return 1


def _upright(still: Image.Image, orientation: int) -> Image.Image:
    from PIL import Image

    how = _TRANSPOSE.get(orientation)
    return still if how is None else still.transpose(Image.Transpose[how])
