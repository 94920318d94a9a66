"""Opening pictures as browsers do: what is there of them is shown.

Pillow refuses a picture for chunks that no pixel hangs on (texts and colour profiles that are large), for its size, and
for an end that is missing. Its switches for that are the process's, so they are left alone here: of a PNG only the
chunks that matter are handed to it, a JPEG ends as it should, and what was decoded before the data ended is kept. How
large a picture may be depends on the memory that there is.
"""

from __future__ import annotations

import io
import logging
import re
import struct
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from comfyk_core_nodes.images.free_memory import free_memory

if TYPE_CHECKING:
    from PIL import Image, ImageFile

log = logging.getLogger(__name__)

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_END_OF_JPEG = b"\xff\xd9"
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
"""Of a segment of a JPEG, or its end. Within the data of pixels there is none."""
_LARGEST_SEGMENT = 2 + 0xFFFF
_PNG_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT", b"eXIf"})
_PNG_TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0", b"Raw profile type APP1\0")
"""Texts that may say which side of a picture is up."""
_MOST_TEXT = 1 << 20
"""Bytes of such a text."""
_BYTES_PER_PIXEL = 20
"""What Pillow's picture takes while it is loaded, its pixels as bytes, and as floats."""
SMALLEST_FRAME = 1 << 16
"""Pixels that a frame of an animation counts as at least: a small one takes time as well."""


class TooLargeError(ValueError):
    """A picture needs more memory than there is."""


def check_memory(width: int, height: int, frames: int = 1) -> None:
    """Raise TooLargeError when so many frames would not fit into the memory that is free."""
    pixels = frames * (width * height if frames == 1 else max(width * height, SMALLEST_FRAME))
    needed, free = pixels * _BYTES_PER_PIXEL, free_memory()
    if needed > free:
        many = f"{frames} frames of " if frames > 1 else ""
        raise TooLargeError(
            f"{many}{width}x{height} pixels need {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free"
        )


@contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    """The picture in a file, not loaded yet; it is closed at the end.

    Raises OSError, TooLargeError, `PIL.UnidentifiedImageError` for what is no picture, and whatever else Pillow's
    readers raise.
    """
    with path.open("rb") as file, _identify(_repaired(file), path) as picture:
        check_memory(*picture.size)
        yield picture


def load_what_is_there(picture: Image.Image) -> None:
    """Load a picture. Where its data end too soon, or are damaged, the rest is black, or grey in a JPEG.

    Raises what Pillow does when there is nothing of it.
    """
    file, tiles = getattr(picture, "fp", None), list(getattr(picture, "tile", ()))
    try:
        picture.load()
    except (MemoryError, RecursionError):
        raise
    except Exception as error:
        begun = getattr(picture, "_im", None) is not None and bool(tiles)
        if not begun or file is None or file.seek(0, io.SEEK_END) <= tiles[0].offset:
            raise
        cast("ImageFile.ImageFile", picture).tile = []  # what was decoded until then is the picture
        picture.load()
        log.warning(
            "%s: the picture ends too soon or is damaged; what is missing is black (%s)",
            Path(str(getattr(picture, "filename", ""))).name or "a picture",
            error,
        )


def _identify(file: BinaryIO, path: Path) -> Image.Image:
    """`PIL.Image.open` with its registry of formats, but without its limit of pixels."""
    from PIL import Image, UnidentifiedImageError

    start = file.read(16)
    for prepare in (Image.preinit, Image.init):
        prepare()
        for name in Image.ID:
            make, accept = Image.OPEN[name]
            accepted = accept is None or accept(start)
            if not accepted or isinstance(
                accepted, str
            ):  # in words why not, such as a library that is not there
                continue
            try:
                file.seek(0)
                return make(file, str(path))
            except (SyntaxError, IndexError, TypeError, struct.error):
                continue
    raise UnidentifiedImageError(f"cannot identify image file {path.name!r}")


# --- what Pillow is handed ----------------------------------------------------------------------------------------


def _repaired(file: BinaryIO) -> BinaryIO:
    start = file.read(8)
    file.seek(0)
    if start == _PNG:
        return io.BufferedReader(_Pieces(file, _png_pieces(file)))
    if start.startswith(_JPEG):
        return io.BufferedReader(_Pieces(file, [(0, _whole_segments(file))], _END_OF_JPEG))
    return file


def _whole_segments(file: BinaryIO) -> int:
    """The bytes of a JPEG up to a segment that is cut off, as a table between two scans may be; else all of them."""
    size = file.seek(0, io.SEEK_END)
    start = max(0, size - _LARGEST_SEGMENT)
    file.seek(start)
    tail = file.read()
    marker = max(_MARKER.finditer(tail), key=lambda found: found.start(), default=None)
    if marker is None or marker[0] == _END_OF_JPEG:
        return size
    length = tail[marker.end() : marker.end() + 2]
    whole = len(length) == 2 and marker.end() + int.from_bytes(length, "big") <= len(tail)
    return size if whole else start + marker.start()


def _png_pieces(file: BinaryIO) -> list[tuple[int, int]]:
    """Where the chunks that matter are: offset and length of each, neighbours as one. The last may be cut off."""
    size = file.seek(0, io.SEEK_END)
    pieces = [(0, len(_PNG))]
    at = len(_PNG)
    while at + 8 <= size:
        file.seek(at)
        length, kind = struct.unpack(">I4s", file.read(8))
        end = min(size, at + 12 + length)
        if kind in _PNG_CHUNKS or (kind in (b"iTXt", b"tEXt", b"zTXt") and _matters(file, length)):
            before, many = pieces[-1]
            if before + many == at:
                pieces[-1] = (before, end - before)
            else:
                pieces.append((at, end - at))
        if kind == b"IEND":
            break
        at = end
    return pieces


def _matters(file: BinaryIO, length: int) -> bool:
    """Whether the text chunk whose content begins here may say which side is up. One that is compressed is not read."""
    return length <= _MOST_TEXT and file.read(min(length, 32)).startswith(_PNG_TEXTS)


class _Pieces(io.RawIOBase):
    """Pieces of a file as one, with some bytes after the end."""

    def __init__(self, file: BinaryIO, pieces: list[tuple[int, int]], ending: bytes = b"") -> None:
        self._file = file
        self._pieces = pieces
        self._ending = ending
        self._starts: list[int] = []
        length = 0
        for _, many in pieces:
            self._starts.append(length)
            length += many
        self._length = length
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length + len(self._ending)}[whence]
        if base + offset < 0:
            raise ValueError("a position before the beginning")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self._at >= self._length:
            data = self._ending[self._at - self._length :][: len(buffer)]
        else:
            number = bisect_right(self._starts, self._at) - 1
            inside = self._at - self._starts[number]
            first, many = self._pieces[number]
            self._file.seek(first + inside)
            data = self._file.read(min(len(buffer), many - inside))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
