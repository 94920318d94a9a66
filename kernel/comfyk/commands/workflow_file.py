"""Reading a workflow to run: JSON as the web UI saves or exports it, or a picture that carries one."""

from __future__ import annotations

import json
import struct
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfyk.workflows import WorkflowError, is_ui_workflow

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(slots=True)
class Workflow:
    """A prompt, with the workflow of the web UI that it was made from, if that is known; one of them is there."""

    prompt: dict[str, Any] | None
    ui: dict[str, Any] | None = None


def read_workflow(name: str) -> Workflow:
    """Read a JSON file, a PNG that SaveImage made, or (`-`) standard input. Raises WorkflowError."""
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise WorkflowError(f"{name}: {error.strerror}") from error
    where = "standard input" if name == "-" else name
    if data.startswith(_PNG):
        texts = png_texts(data)
        found = [name for name in ("prompt", "workflow") if name in texts]
        if not found:
            raise WorkflowError(f"{where}: this picture carries no workflow")
        workflow = _workflow(_parse(texts[found[0]], where), where)
        if found == ["prompt", "workflow"]:
            workflow.ui = _parse(texts["workflow"], where)
        return workflow
    return _workflow(_parse(data, where), where)


def _parse(text: str | bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WorkflowError(f"{where}: is not JSON: {error}") from error


def _workflow(data: Any, where: str) -> Workflow:
    if not isinstance(data, dict):
        raise WorkflowError(f"{where}: holds no workflow: expected an object of nodes")
    if is_ui_workflow(data):
        return Workflow(None, data)
    if is_ui_workflow(data.get("prompt")):
        return Workflow(None, data["prompt"])
    if isinstance(data.get("prompt"), dict):  # the body of a POST to /prompt
        ui = ((data.get("extra_data") or {}).get("extra_pnginfo") or {}).get("workflow")
        return Workflow(data["prompt"], ui)
    for node_id, node in data.items():
        if not isinstance(node, dict) or not isinstance(node.get("class_type"), str):
            raise WorkflowError(f"{where}: node {node_id!r} has no class_type: this is not the API format")
    return Workflow(data)


def png_texts(data: bytes) -> dict[str, str]:
    """The text chunks (tEXt, zTXt, iTXt) of a PNG, by keyword. A damaged file gives those before the damage."""
    texts: dict[str, str] = {}
    position = len(_PNG)
    while position + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        chunk = data[position + 8 : position + 8 + length]
        position += length + 12
        if position > len(data):
            break
        keyword, _, rest = chunk.partition(b"\0")
        try:
            if kind == b"tEXt":
                text = rest.decode("latin-1")
            elif kind == b"zTXt":
                text = zlib.decompress(rest[1:]).decode("latin-1")
            elif kind == b"iTXt":
                value = rest[2:].split(b"\0", 2)[2]
                text = (zlib.decompress(value) if rest[:1] == b"\1" else value).decode("utf-8")
            else:
                continue
        except (ValueError, IndexError, zlib.error):
            continue
        texts[keyword.decode("latin-1")] = text
    return texts
