"""Reads what `execute` returned, in any of the forms that authors use."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from comfyk.io.node import NodeOutput
from comfyk.nodes.definition import NodeResult
from comfyk.wire import dumps_anything, loads_anything

log = logging.getLogger(__name__)

_UI_BYTES = 32 << 20
"""What a node shows, as JSON: it is sent to clients and kept in the history."""


def read_result(node: str, returned: Any) -> NodeResult:
    """From a NodeOutput, a tuple or list, `{"result", "ui", "expand"}`, an ExecutionBlocker or None.

    Raises TypeError, which names the node and says what to return, for anything else.
    """
    if type(returned) is tuple:
        return NodeResult(values=returned or None)
    output = NodeOutput.of(returned, node)
    return NodeResult(
        values=None if output.blocked else output.result,
        ui=read_ui(output.ui),
        expand=output.expand,
        block=output.block_execution,
        blocked=output.blocked,
    )


def read_ui(ui: Any) -> dict[str, list[Any]] | None:
    """`{kind: [item, ...]}` from a dict or a `UIOutput`; a lone item becomes a list of one."""
    if ui is None:
        return None
    data = ui if isinstance(ui, Mapping) else ui.as_dict()
    return {kind: list(items) if isinstance(items, tuple | list) else [items] for kind, items in data.items()}


def plain_ui(ui: dict[str, list[Any]], node: str) -> dict[str, list[Any]]:
    """The same in plain JSON values, whatever an author put into it; what is too large is left out, with a word."""
    written = dumps_anything(ui)
    if len(written) <= _UI_BYTES:
        return loads_anything(written)
    size = f"{len(written) / 1e6:,.0f} MB, more than the {_UI_BYTES / 1e6:,.0f} MB that a node may show"
    log.warning("node %s: what it shows is left out: it is %s", node, size)
    return {"text": [f"What the node shows is left out: it is {size}."]}
