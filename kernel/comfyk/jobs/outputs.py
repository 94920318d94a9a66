"""What a job's outputs amount to in the jobs list: how many, how many can be shown, which one stands for it.

The rules are ComfyUI's, so that its web UI shows the same: a saved picture, video, sound or 3D model stands
for the job before a temporary one, that before a saved text file, and a text shown on a node comes last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

MEDIA_TYPES = frozenset({"images", "video", "audio", "3d", "text"})
"""Keys of a node's ui output whose items clients can show."""
MODEL_SUFFIXES = (".obj", ".fbx", ".gltf", ".glb", ".usdz")
TEXT_SUFFIXES = (".txt", ".md", ".json")
TEXT_PREVIEW_LENGTH = 1024
"""Characters of a text that go into the jobs list."""


class _Rank(IntEnum):
    """What stands for the job: the lowest wins, and the first of equals."""

    SAVED_MEDIA = 0
    OTHER_MEDIA = 1
    TEXT_FILE = 2
    TEXT = 3


@dataclass(slots=True)
class OutputsSummary:
    """The part of a job's line in the list that comes from its outputs."""

    count: int = 0
    """Items of every kind but plain texts."""
    previewable: int = 0
    """Those of them that a client can show."""
    preview: dict[str, Any] | None = None
    """The item that stands for the job, with `nodeId` and `mediaType`."""


def summarize_outputs(outputs: Mapping[str, Any]) -> OutputsSummary:
    """Count the items of `outputs` (node id -> ui output) and choose the preview."""
    summary = OutputsSummary()
    best: _Rank | None = None
    for node_id, media_type, item in _items(outputs):
        file = _as_file(item)
        if file is not None:
            summary.count += 1
            if not _previewable(media_type, file):
                continue
            summary.previewable += 1
            rank = _rank(media_type, file)
            preview = {"mediaType": media_type, **file, "nodeId": node_id}
        elif media_type == "text" and item is not None:
            rank = _Rank.TEXT
            preview = {**_text_preview(item), "nodeId": node_id, "mediaType": media_type}
        else:
            continue
        if best is None or rank < best:
            best, summary.preview = rank, preview
    return summary


def listed_outputs(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs as a job's details show them: names of 3D files become file items, nulls are left out."""
    return {
        node_id: {key: _listed(key, items) for key, items in node.items()} if isinstance(node, dict) else node
        for node_id, node in outputs.items()
    }


def _listed(media_type: str, items: Any) -> Any:
    if media_type == "animated" or not isinstance(items, list):
        return items
    return [_as_file(item) or item for item in items if item is not None]


def named_files(outputs: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(node id, item) of all items that describe a file; what is in them may be of any type."""
    for node_id, _, item in _items(outputs):
        file = _as_file(item)
        if file is not None:
            yield node_id, file


def _items(outputs: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """(node id, media type, item) of all lists of items; `animated` holds flags, not items."""
    for node_id, node in outputs.items():
        if isinstance(node, dict):
            for media_type, items in node.items():
                if media_type != "animated" and isinstance(items, list):
                    for item in items:
                        yield node_id, media_type, item


def _as_file(item: Any) -> dict[str, Any] | None:
    """The item if it describes a file; a bare name of a 3D model is one in the output folder."""
    if isinstance(item, dict):
        return item
    if isinstance(item, str) and item.lower().endswith(MODEL_SUFFIXES):
        return {"filename": item, "type": "output", "subfolder": "", "mediaType": "3d"}
    return None


def _name(item: dict[str, Any]) -> str:
    name = item.get("filename")
    return name.lower() if isinstance(name, str) else ""


def _previewable(media_type: str, item: dict[str, Any]) -> bool:
    mime = item.get("format")
    return (
        media_type in MEDIA_TYPES
        or (isinstance(mime, str) and mime.startswith(("video/", "audio/")))
        or _name(item).endswith(MODEL_SUFFIXES + TEXT_SUFFIXES)
    )


def _rank(media_type: str, item: dict[str, Any]) -> _Rank:
    if media_type == "text" or _name(item).endswith(TEXT_SUFFIXES):
        return _Rank.TEXT_FILE
    return _Rank.SAVED_MEDIA if item.get("type") == "output" else _Rank.OTHER_MEDIA


def _text_preview(item: Any) -> dict[str, Any]:
    if isinstance(item, tuple):
        item = item[0] if item else ""
    text = str(item)
    if len(text) <= TEXT_PREVIEW_LENGTH:
        return {"content": text}
    return {"content": text[:TEXT_PREVIEW_LENGTH], "truncated": True}
