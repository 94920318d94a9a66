"""The binary WebSocket messages of ComfyUI: a type as 4 bytes (big-endian), and what that type holds."""

from __future__ import annotations

import struct

from comfyk.events import Preview, ProgressText
from comfyk.wire import dumps

PREVIEW_IMAGE = 1
TEXT = 3
PREVIEW_IMAGE_WITH_METADATA = 4

_IMAGE_FORMATS = {"JPEG": 1, "PNG": 2}


def preview(event: Preview) -> bytes:
    """Type 1: the picture's format (1: JPEG, 2: PNG) and the picture."""
    return struct.pack(">II", PREVIEW_IMAGE, _IMAGE_FORMATS.get(event.image.format, 1)) + event.image.data


def preview_with_metadata(event: Preview) -> bytes:
    """Type 4: the length of a JSON object, the object (which node of which job it is), and the picture."""
    node = event.node
    metadata = dumps(
        {
            "node_id": node.node_id,
            "prompt_id": event.job_id,
            "display_node_id": node.display_node_id,
            "parent_node_id": node.parent_node_id,
            "real_node_id": node.real_node_id,
            "image_type": f"image/{event.image.format.lower()}",
        }
    )
    return struct.pack(">II", PREVIEW_IMAGE_WITH_METADATA, len(metadata)) + metadata + event.image.data


def progress_text(event: ProgressText) -> bytes:
    """Type 3: the length of the node's id, the id, and the text."""
    node = event.node.encode()
    return struct.pack(">II", TEXT, len(node)) + node + event.text.encode(errors="replace")
