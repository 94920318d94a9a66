"""Saving pictures: a file appears complete under a name that was nobody's before, or not at all."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from comfyk import check_interrupted

from comfyk_core_nodes.images.filename import TEMPORARY_PREFIX, SaveError, Target
from comfyk_core_nodes.images.pixels import to_bytes, to_picture

if TYPE_CHECKING:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo
    from torch import Tensor

log = logging.getLogger(__name__)


def save_pngs(
    images: Tensor,
    target: Target,
    counter: int,
    *,
    compress_level: int,
    metadata: Mapping[str, Any] | None = None,
    tail: str = "_",
) -> list[str]:
    """Save each of `[B, H, W, C]` as a PNG in the target's folder; returns the file names.

    `metadata` goes into text chunks, as JSON. `counter` and `tail` are as in `save_file`. Raises SaveError when
    the folder cannot be written to, ValueError for tensors that are no pictures.
    """
    info = text_chunks(metadata) if metadata else None
    names = []
    for number, pixels in enumerate(to_bytes(images)):
        check_interrupted()
        picture = to_picture(pixels)

        def write(file: IO[bytes], picture: Image.Image = picture) -> None:
            picture.save(file, "PNG", pnginfo=info, compress_level=compress_level)

        name, counter = save_file(target, counter, ".png", write, batch_number=number, tail=tail)
        names.append(name)
        counter += 1
    return names


def save_file(
    target: Target,
    counter: int,
    extension: str,
    write: Callable[[IO[bytes]], object],
    *,
    batch_number: int = 0,
    tail: str = "_",
) -> tuple[str, int]:
    """Save what `write` puts into a file, in the target's folder; returns the name and its number.

    `counter` is the first number to try; a name that is taken is left alone and the next one tried, so
    processes that save at the same time do not meet. Raises SaveError when the folder cannot be written to.
    """
    name = target.filename(counter, batch_number, extension, tail)
    try:
        with _unfinished_file(target.directory) as (temporary, file):
            write(file)
            file.close()
            while not _take_name(temporary, target.directory / name):
                counter += 1
                name = target.filename(counter, batch_number, extension, tail)
    except OSError as error:
        raise SaveError(f"cannot save {name} in {target.directory}: {error.strerror or error}") from error
    return name, counter


def text_chunks(metadata: Mapping[str, Any]) -> PngInfo:
    """PNG text chunks with JSON values. A key that PNG has no room for (Latin-1, 1 to 79) is left out."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in metadata.items():
        if is_keyword(key):
            info.add_text(key, json.dumps(value))
    return info


def is_keyword(key: str) -> bool:
    """Whether a PNG text chunk can have this name; a warning says when it cannot."""
    try:
        keyword = key.encode("latin-1")
    except UnicodeEncodeError:
        keyword = b""
    if 1 <= len(keyword) <= 79 and b"\0" not in keyword:
        return True
    log.warning("metadata %r is not saved: a PNG keyword has 1 to 79 Latin-1 characters", key)
    return False


@contextmanager
def _unfinished_file(directory: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """A new file to write to, gone again at the end unless the process is killed.

    `next_counter` removes what is left then.
    """
    path = directory / f"{TEMPORARY_PREFIX}{os.urandom(8).hex()}.tmp"
    # Not from tempfile, whose files are private: these get the rights that the umask gives.
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with open(descriptor, "wb") as file:
            yield path, file
    finally:
        with suppress(FileNotFoundError):
            path.unlink()


def _take_name(temporary: Path, final: Path) -> bool:
    """Give a finished file its final name; False when there is a file of that name."""
    try:
        os.link(temporary, final)
        return True
    except FileExistsError:
        return False
    except OSError:
        pass
    # No hard links on this drive (FAT, some networks); here a kill in between leaves an empty file.
    try:
        os.close(os.open(final, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        return False
    os.replace(temporary, final)
    return True
