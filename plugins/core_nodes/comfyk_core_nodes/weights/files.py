"""Reading weight files into a state dict, `{key: tensor}`.

`.safetensors` files are mapped: the tensors are views of the file, and reading takes milliseconds whatever its size;
with the setting `device.mmap` off, they are read.
`.ckpt`, `.pt`, `.pth` and `.bin` files are pickles, read with `torch.load(weights_only=True)`, which builds tensors
and plain containers and runs nothing. A file that cannot be used raises `ModelFileError`, which says which file it
is, what was expected and what was found.
"""

from __future__ import annotations

import json
import logging
import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from comfyk_core_nodes.devices.settings import device_settings
from comfyk_core_nodes.weights.file_error import ModelFileError
from comfyk_core_nodes.weights.mapped_files import can_map, check_all_there, map_file, mapping_start
from comfyk_core_nodes.weights.state_dict import StateDict

log = logging.getLogger(__name__)

SAFE_SUFFIXES = frozenset({".safetensors", ".sft"})
PICKLE_SUFFIXES = frozenset({".ckpt", ".pt", ".pth", ".pt2", ".bin", ".pkl"})
_MAX_HEADER = 100_000_000
"""Bytes; what the safetensors format allows."""
_MAX_STRUCTURE = 100_000_000
"""Bytes of the pickle in a `.ckpt` file, which has the names and shapes of tensors: a few MB in the largest."""
_RUNS_CODE = "objects that only running code could build; such a file is not loaded"


def load_torch_file(path: str | os.PathLike[str]) -> tuple[StateDict, dict[str, str]]:
    """The tensors of a weight file on the CPU, and its metadata (empty where the format has none).

    Raises ModelFileError for a file that is missing, damaged, or no file of weights.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.is_file():
        raise ModelFileError(path, "a file of weights", "no such file")
    log.info("reading %s, %.0f MB", path.name, path.stat().st_size / 1e6)
    if suffix in SAFE_SUFFIXES:
        loaded = _load_safetensors(path)
        check_all_there()
        return loaded
    if suffix in PICKLE_SUFFIXES:
        return flatten(load_pickle(path), path), {}
    known = ", ".join(sorted(SAFE_SUFFIXES | PICKLE_SUFFIXES))
    raise ModelFileError(path, f"a file of weights ({known})", f"the ending {suffix!r}")


def _load_safetensors(path: Path) -> tuple[StateDict, dict[str, str]]:
    try:
        with path.open("rb") as file:
            with (
                _header_alone(file, path) as header,
                safe_open(header, framework="pt", device="cpu") as whole,
            ):
                shapes = {key: whole.get_tensor(key) for key in whole.keys()}  # noqa: SIM118
                metadata = whole.metadata() or {}
            if device_settings().mmap and not can_map():
                return shapes, metadata
            mapped = map_file(file, path) if device_settings().mmap else None
            return _read_tensors(file, shapes) if mapped is None else _view_tensors(mapped, shapes), metadata
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError) as error:
        raise ModelFileError(path, "a safetensors file", _what_it_is(path, error)) from error


@contextmanager
def _header_alone(file: BinaryIO, path: Path) -> Iterator[str | Path]:
    """The path of a file with the header of a safetensors file and as much empty space after it as that has.

    The library maps what it reads; nobody but us can change the size of this one. Raises OSError.
    """
    if not can_map():
        yield path
        return
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    header = int.from_bytes(start, "little")
    start += file.read(header) if len(start) == 8 and header <= min(size, _MAX_HEADER) else b""
    copy = os.memfd_create("comfyk-header")
    try:
        with os.fdopen(copy, "wb", closefd=False) as writer:
            writer.write(start)
        os.ftruncate(copy, size)
        yield f"/proc/self/fd/{copy}"
    finally:
        os.close(copy)


def _view_tensors(content: Tensor, shapes: Mapping[str, Tensor]) -> StateDict:
    """The tensors in the bytes of a safetensors file, like `shapes`, as views of them."""
    memory = content.numpy()
    start = 8 + int.from_bytes(memory[:8].tobytes(), "little")
    entries = json.loads(memory[8:start].tobytes())
    state: StateDict = {}
    for key, like in shapes.items():
        first, end = entries[key]["data_offsets"]
        state[key] = _view(memory, start + first, like) if end > first else like.clone()
    return state


def _view(memory: np.ndarray, first: int, like: Tensor) -> Tensor:
    """A tensor of the dtype and shape of another, whose values lie there."""
    return torch.frombuffer(memory, dtype=like.dtype, count=like.numel(), offset=first).view(like.shape)


def _read_tensors(file: BinaryIO, shapes: Mapping[str, Tensor]) -> StateDict:
    """What is in a safetensors file, which has tensors like `shapes`, read into memory of its own.

    Where a file is on a network share, reading it from the beginning to its end is quicker than going about in it.
    """
    file.seek(0)
    header = int.from_bytes(file.read(8), "little")
    entries = json.loads(file.read(header))
    state: StateDict = {}
    for key in sorted(shapes, key=lambda key: entries[key]["data_offsets"]):
        raw = torch.empty(shapes[key].nbytes, dtype=torch.uint8)
        file.seek(8 + header + entries[key]["data_offsets"][0])
        if file.readinto(raw.numpy().data) != raw.nbytes:  # type: ignore[attr-defined]
            raise OSError(f"it ends within {key}")
        state[key] = raw.view(shapes[key].dtype).view(shapes[key].shape)
    return state


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(512)


def _no_weights(start: bytes) -> str | None:
    """What a file that starts so is, where it is no file of weights of whatever kind."""
    if len(start) < 8:
        return f"a file of {len(start)} bytes"
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html")):
        return "a web page: the download got an error or login page in place of the file"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer: the file itself was not downloaded"
    return None


def _what_it_is(path: Path, error: Exception) -> str:
    """What a file that is no good safetensors file looks like, in words."""
    size = path.stat().st_size
    start = _start(path)
    if (plain := _no_weights(start)) is not None:
        return plain
    if start.startswith(b"PK\x03\x04"):
        return "a zip archive, as .ckpt and .pt files are: rename it to .ckpt if that is what it is"
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a pickle, as old .ckpt and .pt files are: rename it to .ckpt if that is what it is"
    header = int.from_bytes(start[:8], "little")
    if header > min(size - 8, _MAX_HEADER):
        return (
            f"a header that would take {header} bytes in a file of {size} bytes: damaged, or something else"
        )
    end = _end_of_data(path, header)
    if end is not None and end > size:
        return f"{size} of {end} bytes: the file is cut off; download it again"
    return f"a damaged one ({error})"


def _end_of_data(path: Path, header: int) -> int | None:
    """The size that the header of a safetensors file gives the file, or None where it makes no sense."""
    try:
        with path.open("rb") as file:
            file.seek(8)
            entries = json.loads(file.read(header))
        ends = [entry["data_offsets"][1] for key, entry in entries.items() if key != "__metadata__"]
        return 8 + header + max(int(end) for end in ends)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, OverflowError):
        return None


def load_pickle(path: Path, expected: str = "a checkpoint of plain tensors") -> Any:
    """What is in a file that `torch.save` wrote: tensors and plain containers. No code of the file is run.

    What the file is, and how much memory it would take, is found out before it is read. Raises ModelFileError, with
    `expected` in its text, for a file that is damaged, something else, or has more than that.
    """
    try:
        start = _start(path)
        zipped = start.startswith(b"PK\x03\x04")
        found = _no_weights(start) or (_bad_archive(path) if zipped else _no_pickle(path, start))
    except OSError as error:
        raise ModelFileError(path, expected, f"one that cannot be read ({error})") from error
    if found is not None:
        raise ModelFileError(path, expected, found)
    try:
        # Only zip archives can be mapped; the old format before torch 1.6 is read whole.
        if zipped and device_settings().mmap:
            return _load_mapped(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (MemoryError, ModelFileError):
        raise
    except Exception as error:
        raise ModelFileError(path, expected, _why_not_loaded(error, zipped)) from error


def _load_mapped(path: Path) -> Any:
    """What is in such an archive; its tensors are views of a mapping that is guarded, where there is a guard."""
    if not can_map():
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    with path.open("rb") as file:
        content = map_file(file, path)
    if content is None:
        return torch.load(path, map_location="cpu", weights_only=True)
    memory = content.numpy()
    start: int | None = None

    def same_bytes(storage: Any, _location: str) -> Any:
        """Those of the guarded mapping in place of torch's own, which nothing has touched yet."""
        nonlocal start
        if storage.nbytes() == 0:
            return storage
        if start is None:
            start = mapping_start(storage.data_ptr())
        first, count = storage.data_ptr() - start, storage.nbytes()
        return torch.frombuffer(memory, dtype=torch.uint8, count=count, offset=first).untyped_storage()

    loaded = torch.load(path, map_location=same_bytes, weights_only=True, mmap=True)
    check_all_there()
    return loaded


def _bad_archive(path: Path) -> str | None:
    """What is wrong with a zip archive, from its directory. None for one as `torch.save` writes it: uncompressed."""
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return f"the first {size} bytes of a zip archive: the file is cut off or damaged; download it again"
    inside = {entry: entry.filename.partition("/")[2] or entry.filename for entry in entries}
    structure = [entry for entry, name in inside.items() if name == "data.pkl"]
    if not structure:
        some = ", ".join(entry.filename for entry in entries[:3])
        return (
            f"a zip archive of something else ({some}): if the model is one of the files in it, unpack that"
        )
    total = sum(entry.file_size for entry in entries)
    tensors = [entry for entry, name in inside.items() if name == "data.pkl" or name.startswith("data/")]
    if total > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in tensors):
        return (
            f"a compressed zip archive ({total} bytes in {size}), which torch never writes: download the original, "
            f"or unpack it and zip it without compression"
        )
    largest = max(entry.file_size for entry in structure)
    if largest > _MAX_STRUCTURE:
        return f"a data.pkl of {largest} bytes, more than the names and shapes of tensors take"
    return None


def _no_pickle(path: Path, start: bytes) -> str | None:
    """What a file is that is neither a zip archive nor a pickle. None for a pickle."""
    header = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and header <= _MAX_HEADER:
        return "a safetensors file: rename it to .safetensors"
    if start[:1] != b"\x80":
        return (
            f"neither a zip archive nor a pickle in {path.stat().st_size} bytes: damaged, or something else"
        )
    return None


def _why_not_loaded(error: Exception, zipped: bool) -> str:
    """In words, without torch's advice to load the file with whatever code is in it."""
    text = str(error).strip()
    reason = text.split("\n")[0][:200] or type(error).__name__
    if isinstance(error, EOFError | IndexError | struct.error) or any(
        word in text for word in ("unexpected EOF", "Ran out of input", "truncated")
    ):
        return f"one that ends too soon: it is cut off or damaged; download it again ({reason})"
    if any(word in text for word in ("weights_only", "Weights only", "Unsupported global")):
        return _RUNS_CODE
    if zipped and "PytorchStreamReader" in text:
        return "a damaged zip archive; download it again"
    return f"a damaged one ({reason})"


_WRAPPERS = ("state_dict", "model_state_dict", "params_ema", "params", "model", "module")


def flatten(loaded: Any, path: str | os.PathLike[str]) -> StateDict:
    """The state dict inside what a pickle held: training scripts wrap it (`{"state_dict": ...}`)."""
    for _ in range(3):
        if not isinstance(loaded, Mapping):
            break
        if any(isinstance(value, Tensor) for value in loaded.values()):
            return {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
        inner = next((loaded[name] for name in _WRAPPERS if isinstance(loaded.get(name), Mapping)), None)
        if inner is None and len(loaded) == 1:
            inner = next(iter(loaded.values()))
        loaded = inner
    raise ModelFileError(path, "a dictionary of tensors", "none in the file")
