"""Reads what `execute` returned, in any of the forms that authors use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfyk.io.node import NodeOutput
from comfyk.nodes.definition import NodeResult


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
