"""The header of a safetensors file: what is in it, without reading the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LARGEST = 8 * 1024 * 1024
"""Bytes of a header that are read; some hold pictures."""


def read_header(path: Path) -> dict[str, Any]:
    """The header of a file. Raises ValueError when it has none, or one that is too large, and OSError."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= LARGEST:
            raise ValueError(f"{path.name} has no header of at most {LARGEST:,} bytes")
        text = file.read(length)
    if len(text) < length:
        raise ValueError(f"{path.name} ends within its header")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the header of {path.name} cannot be read: {error}") from None
    if not isinstance(header, dict):
        raise ValueError(f"the header of {path.name} is no JSON object")
    return header


def read_metadata(path: Path) -> dict[str, Any] | None:
    """What the maker of the file wrote into it, or None. Raises as `read_header`."""
    metadata = read_header(path).get("__metadata__")
    return metadata if isinstance(metadata, dict) else None
