"""Nodes that show a value as text."""

from __future__ import annotations

import json
from typing import Any

from comfyk import io
from comfyk.ui import PreviewText

from comfyk_core_nodes.devices.torch_import import loaded_torch


def as_text(value: Any) -> str:
    """A string as it is, JSON for what has a JSON form, Python's text for the rest."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, int | float):
        return str(value)
    try:
        return json.dumps(value, indent=4, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        pass
    try:
        return _python_text(value)
    except Exception as error:  # a class of somebody else's
        return f"a {type(value).__name__} that has no text ({error})"


def _python_text(value: Any) -> str:
    """Python's text, with six items at each edge of a large tensor, as ComfyUI shows it."""
    torch = loaded_torch()
    if torch is None:
        return str(value)
    torch.set_printoptions(edgeitems=6)
    try:
        return str(value)
    finally:
        torch.set_printoptions(edgeitems=3)


class PreviewAny(io.ComfyNode):
    """Shows any value as text, and gives the text."""

    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_preview_any"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PreviewAny",
            display_name="Preview as Text",
            category="utilities",
            description="Shows a value as text.",
            search_aliases=["show output", "inspect", "debug", "print value", "show text"],
            v1_form=True,
            is_output_node=True,
            inputs=[io.AnyType.Input("source")],
            outputs=[io.String.Output()],
        )

    @classmethod
    def execute(cls, source: Any = None) -> io.NodeOutput:
        text = as_text(source)
        return io.NodeOutput(text, ui=PreviewText(text))


NODES = (PreviewAny,)
