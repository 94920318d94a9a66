"""Files with more than 8 bits a channel: PNG with 16 bits, and OpenEXR with floats."""

from __future__ import annotations

import json
import logging
import struct
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from comfyk import check_interrupted

from comfyk_core_nodes.images.save import text_chunks

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

log = logging.getLogger(__name__)

_PNG_COLOR_TYPES = {1: 0, 3: 2, 4: 6}
_PAETH = 4
_DEFLATE_LEVEL = 4

_EXR_MAGIC = 20000630
_EXR_VERSION = 2
_EXR_LONG_NAMES = 0x400
"""The flag of a file in which names have up to 255 bytes instead of 31."""
_EXR_FLOAT = 2
_EXR_ZIP = 3
_EXR_LINES = 16
"""Of a chunk with ZIP compression."""
_EXR_CHANNELS = {1: ("Y",), 3: ("B", "G", "R"), 4: ("A", "B", "G", "R")}
"""By the number of channels, in the order of the file, which is the alphabet's."""

CHROMATICITIES = {
    "Rec.709": (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.3290),
    "Rec.2020": (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, 0.3127, 0.3290),
}
"""CIE 1931 xy of red, green, blue and white (D65): ITU-R BT.709-6 and BT.2020-2."""

# ITU-R BT.2100-2, table 5: a, b = 1 - 4a, c = 0.5 - a ln(4a)
_HLG = (0.17883277, 0.28466892, 0.55991072928)


def srgb_to_linear(pixels: Tensor) -> Tensor:
    """Linear light of sRGB values (IEC 61966-2-1), `[..., C]`; a fourth channel, alpha, is left alone."""

    def decode(encoded: Tensor) -> Tensor:
        import torch

        curve = ((encoded.clamp_min(0.0) + 0.055) / 1.055) ** 2.4
        return torch.where(encoded <= 0.04045, encoded / 12.92, curve)

    return _colors(pixels, decode)


def hlg_to_linear(pixels: Tensor) -> Tensor:
    """Linear scene light of HLG values (the inverse OETF of ITU-R BT.2100-2), `[..., C]`, alpha left alone."""

    def decode(encoded: Tensor) -> Tensor:
        import torch

        a, b, c = _HLG
        # The curve that is not taken must not overflow.
        curve = (torch.exp((encoded.clamp_min(0.5) - c) / a) + b) / 12.0
        return torch.where(encoded <= 0.5, encoded**2 / 3.0, curve)

    return _colors(pixels, decode)


def _colors(pixels: Tensor, decode: Any) -> Tensor:
    import torch

    if pixels.shape[-1] != 4:
        return decode(pixels)
    return torch.cat((decode(pixels[..., :3]), pixels[..., 3:]), -1)


def png16(pixels: Tensor, metadata: Mapping[str, Any] | None = None) -> bytes:
    """A PNG file with 16 bits a channel of `[H, W, C]` in 0..1; fractions are cut off.

    W3C, "Portable Network Graphics", third edition. Each line is filtered by Paeth's predictor. `metadata` goes
    into text chunks, as JSON. Raises ValueError unless C is 1, 3 or 4.
    """
    import numpy as np

    height, width, channels = pixels.shape
    if channels not in _PNG_COLOR_TYPES:
        raise ValueError(f"a PNG has 1, 3 or 4 channels, and this picture has {channels}")
    values = pixels.detach().float().mul(65535).clamp_(0, 65535).cpu().numpy().astype(">u2")
    raw = values.reshape(height, -1).view(np.uint8)
    step = 2 * channels
    lines = np.empty((height, raw.shape[1] + 1), np.uint8)
    lines[:, 0] = _PAETH
    lines[:, 1:] = raw - _paeth(raw, step)
    header = struct.pack(">IIBBBBB", width, height, 16, _PNG_COLOR_TYPES[channels], 0, 0, 0)
    texts = text_chunks(metadata).chunks if metadata else []
    chunks = [(b"IHDR", header), *((kind, data) for kind, data, *_ in texts)]
    chunks += [(b"IDAT", zlib.compress(lines.tobytes(), _DEFLATE_LEVEL)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _paeth(raw: np.ndarray, step: int) -> np.ndarray:
    """Of each byte, what of left, above and above left is nearest to left + above - above left."""
    import numpy as np

    around = np.pad(raw.astype(np.int16), ((1, 0), (step, 0)))
    left, above, corner = around[1:, :-step], around[:-1, step:], around[:-1, :-step]
    guess = left + above - corner
    to_left, to_above, to_corner = (abs(guess - one) for one in (left, above, corner))
    nearest = np.where(to_above <= to_corner, above, corner)
    return np.where((to_left <= to_above) & (to_left <= to_corner), left, nearest).astype(np.uint8)


def exr(pixels: Tensor, chromaticities: str, metadata: Mapping[str, Any] | None = None) -> bytes:
    """An OpenEXR file with 32-bit floats of `[H, W, C]`, taken for linear light with these CHROMATICITIES.

    "OpenEXR File Layout", one part of scan lines, ZIP compression. `metadata` goes into attributes, as JSON.
    Raises ValueError unless C is 1 (`Y`), 3 or 4.
    """
    import numpy as np

    height, width, channels = pixels.shape
    if channels not in _EXR_CHANNELS:
        raise ValueError(f"an EXR file has 1, 3 or 4 channels here, and this picture has {channels}")
    values = pixels.detach().float().cpu().numpy().astype("<f4")
    if channels > 1:  # ABGR: the alphabet's order is the other way round
        values = values[..., ::-1]
    lines = np.ascontiguousarray(values.transpose(0, 2, 1))
    header = _exr_header(width, height, _EXR_CHANNELS[channels], chromaticities, metadata or {})
    chunks = []
    for first in range(0, height, _EXR_LINES):
        check_interrupted()
        data = _exr_compress(lines[first : first + _EXR_LINES].tobytes())
        chunks.append(struct.pack("<ii", first, len(data)) + data)
    position = len(header) + 8 * len(chunks)
    offsets = []
    for chunk in chunks:
        offsets.append(position)
        position += len(chunk)
    return header + struct.pack(f"<{len(offsets)}Q", *offsets) + b"".join(chunks)


def _exr_header(
    width: int, height: int, channels: tuple[str, ...], chromaticities: str, metadata: Mapping[str, Any]
) -> bytes:
    window = struct.pack("<iiii", 0, 0, width - 1, height - 1)
    # name, type of pixel, whether it is perceptually linear, sampling in x and y
    listed = b"".join(
        name.encode() + b"\0" + struct.pack("<iB3xii", _EXR_FLOAT, 0, 1, 1) for name in channels
    )
    attributes = {
        "channels": ("chlist", listed + b"\0"),
        "compression": ("compression", bytes([_EXR_ZIP])),
        "dataWindow": ("box2i", window),
        "displayWindow": ("box2i", window),
        "lineOrder": ("lineOrder", b"\0"),
        "pixelAspectRatio": ("float", struct.pack("<f", 1.0)),
        "screenWindowCenter": ("v2f", struct.pack("<ff", 0.0, 0.0)),
        "screenWindowWidth": ("float", struct.pack("<f", 1.0)),
        "chromaticities": ("chromaticities", struct.pack("<8f", *CHROMATICITIES[chromaticities])),
    }
    for key, value in metadata.items():
        name = key.encode("utf-8", "replace")
        if key in attributes or not 1 <= len(name) <= 255 or b"\0" in name:
            log.warning(
                "metadata %r is not saved: an EXR file has no room for an attribute of that name", key
            )
            continue
        attributes[key] = ("string", json.dumps(value).encode("ascii"))
    longest = max(len(key.encode("utf-8", "replace")) for key in attributes)
    flags = _EXR_LONG_NAMES if longest > 31 else 0
    return (
        struct.pack("<II", _EXR_MAGIC, _EXR_VERSION | flags)
        + b"".join(
            key.encode("utf-8", "replace")
            + b"\0"
            + kind.encode()
            + b"\0"
            + struct.pack("<i", len(value))
            + value
            for key, (kind, value) in attributes.items()
        )
        + b"\0"
    )


def _exr_compress(data: bytes) -> bytes:
    """Bytes of even places, then of odd ones, as differences, deflated; as they are where that is no gain."""
    import numpy as np

    raw = np.frombuffer(data, np.uint8)
    parted = np.concatenate((raw[0::2], raw[1::2]))
    differences = parted.copy()
    differences[1:] = parted[1:] - parted[:-1] + np.uint8(128)
    compressed = zlib.compress(differences.tobytes(), _DEFLATE_LEVEL)
    return compressed if len(compressed) < len(data) else data
