"""Lists between nodes: a node is called once for each item, and its results are put together again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from comfyk.io import ExecutionBlocker


def calls(values: Mapping[str, Sequence[Any]], whole_lists: bool) -> Iterator[dict[str, Any]]:
    """The arguments of each call. The longest list sets how many there are; shorter ones repeat their last item.

    An empty list means that there is nothing to do: no call. With `whole_lists` the node takes the lists
    themselves, in one call.
    """
    if whole_lists:
        yield dict(values)
        return
    if not values:
        yield {}
        return
    if not all(values.values()):
        return
    for index in range(max(len(items) for items in values.values())):
        yield {name: items[min(index, len(items) - 1)] for name, items in values.items()}


def find_blocker(arguments: Mapping[str, Any], whole_lists: bool) -> ExecutionBlocker | None:
    """The first argument that blocks this call."""
    for value in arguments.values():
        if isinstance(value, ExecutionBlocker):
            return value
        if whole_lists and isinstance(value, (list, tuple)):
            for item in value:
                if isinstance(item, ExecutionBlocker):
                    return item
    return None


def merge(results: Sequence[tuple[Any, ...]], output_is_list: Sequence[bool]) -> list[list[Any]]:
    """One list per output from the results of all calls; outputs that are lists themselves are joined."""
    if not results:
        return [[] for _ in output_is_list]
    outputs: list[list[Any]] = []
    for index, is_list in zip(range(max(map(len, results))), output_is_list, strict=False):
        items: list[Any] = []
        for result in results:
            value = result[index] if index < len(result) else None
            if is_list and not isinstance(value, ExecutionBlocker):
                items.extend(value if value is not None else ())
            else:
                items.append(value)
        outputs.append(items)
    return outputs


def merge_ui(parts: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """One ui output from those of all calls: their lists joined, key by key."""
    merged: dict[str, list[Any]] = {}
    for part in parts:
        for key, items in part.items():
            merged.setdefault(key, []).extend(items if isinstance(items, (list, tuple)) else [items])
    return merged
