"""What is wrong with a prompt, in the form that clients read, and never larger than somebody can read.

A prompt of a few hundred kB can have tens of thousands of errors, each of which would repeat a large value or name all
the others: texts and lists are cut here, and what is left out is counted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from comfyk.logs import printable
from comfyk.wire import dumps_anything, text_of

Error = dict[str, Any]
"""`{"type", "message", "details", "extra_info"}`."""

NODES_SHOWN = 200
"""Nodes whose errors are told; the others are counted."""
ERRORS_SHOWN = 20
"""Errors told of one node."""
LIST_SHOWN = 50
"""Ids in a list."""
_TEXT_SHOWN = 2000
_NODES_IN_SUMMARY = 3
_BYTES_SHOWN = 256 << 10
"""All errors of a prompt together, as JSON, about."""


class PromptError(Exception):
    """The prompt was refused: `error` says why, `node_errors` what is wrong at each node."""

    def __init__(self, error: Error, node_errors: dict[str, Any] | None = None) -> None:
        super().__init__(in_words(error))
        self.error = error
        self.node_errors = node_errors or {}

    @property
    def summary(self) -> str:
        """All of it as one line for a log: what is wrong at each node, or with the prompt as a whole."""
        return node_errors_summary(self.node_errors) or printable(str(self))


def in_words(error: Mapping[str, Any]) -> str:
    """An error as one line: the message, and the details if there are any."""
    message, details = str(error["message"]), error.get("details")
    if not details:
        return message
    return f"{message} ({details})" if message.endswith((".", "!", "?")) else f"{message}: {details}"


def node_errors_summary(node_errors: Mapping[str, Any]) -> str:
    """The errors of a prompt's nodes as one line; those of the first nodes, and how many others there are."""
    told = [
        f"{entry.get('class_type')} ({node_id}): " + ", ".join(in_words(error) for error in entry["errors"])
        for node_id, entry in list(node_errors.items())[:_NODES_IN_SUMMARY]
        if entry["errors"]
    ]
    if (more := len(node_errors) - _NODES_IN_SUMMARY) > 0:
        told.append(f"and {more} more nodes")
    return cut(printable("; ".join(told)), _TEXT_SHOWN // 2)


def error(type: str, message: str, details: str = "", extra_info: Mapping[str, Any] | None = None) -> Error:
    """An error in the form that clients read."""
    return {
        "type": type,
        "message": cut(message),
        "details": cut(details),
        "extra_info": dict(extra_info or {}),
    }


def cut(text: str, length: int = _TEXT_SHOWN) -> str:
    """A text that is no longer than that, but for the count of what was left out."""
    if len(text) <= length:
        return text
    return f"{text[:length]}... ({len(text) - length:,} more characters)"


def shown(value: Any) -> Any:
    """A value of a prompt, or the beginning of its text when it is large."""
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, (int, str)):
        text = text_of(value)
        return value if len(text) <= _TEXT_SHOWN else cut(text)
    written = dumps_anything(value)
    return value if len(written) <= _TEXT_SHOWN else cut(written.decode())


def shown_list(ids: Collection[str]) -> list[str]:
    """The first of many ids."""
    return [cut(one, 200) for one, _ in zip(ids, range(LIST_SHOWN), strict=False)]


def joined(texts: Iterable[str], count: int, separator: str = ", ", length: int = 200) -> str:
    """The first of `count` texts in a row, each cut to `length`, and how many more there are."""
    first = [cut(text, length) for text, _ in zip(texts, range(LIST_SHOWN), strict=False)]
    rest = [f"... ({count - len(first):,} more)"] if count > len(first) else []
    return separator.join([*first, *rest])


class NodeErrors:
    """The errors of a prompt's nodes: all nodes that have some, and the errors of the first of them."""

    def __init__(self) -> None:
        self._errors: dict[str, list[Error]] = {}
        self._left_out: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._errors)

    def __contains__(self, node_id: str) -> bool:
        return node_id in self._errors

    def add(self, node_id: str, found: Iterable[Error], *, first: bool = False) -> None:
        """Note errors of a node, before those it has with `first`."""
        found = list(found)
        if not found:
            return
        known = self._errors.setdefault(node_id, [])
        if len(self._errors) > NODES_SHOWN:
            return  # it counts, and nobody reads it
        kept = [*found, *known] if first else [*known, *found]
        self._errors[node_id] = kept[:ERRORS_SHOWN]
        if len(kept) > ERRORS_SHOWN:
            left_out = len(kept) - ERRORS_SHOWN
            self._left_out[node_id] = self._left_out.get(node_id, 0) + left_out

    def ids(self) -> list[str]:
        """The nodes that have errors, in the order in which they were found."""
        return list(self._errors)

    def listed(self) -> list[str]:
        """Those of them whose errors are told."""
        return [node_id for node_id, found in self._errors.items() if found]

    def written(
        self, order: Iterable[str], behind: Mapping[str, tuple[list[str], int]], classes: Mapping[str, str]
    ) -> dict[str, Any]:
        """`node_errors` of the nodes in this order.

        `behind` has for each the first outputs that depend on it, and how many do. The last entry says how many nodes
        with errors are left out.
        """
        entries: dict[str, Any] = {}
        size = 0
        for node_id in order:
            found = self._errors.get(node_id)
            if not found:
                continue
            if size > _BYTES_SHOWN:
                break
            outputs, count = behind.get(node_id, ([], 0))
            entry = {
                "errors": list(found),
                "dependent_outputs": outputs,
                "class_type": classes.get(node_id, ""),
            }
            if count > len(outputs):
                entry["dependent_outputs_left_out"] = count - len(outputs)
            if left_out := self._left_out.get(node_id):
                entry["errors"].append(_left_out(f"{left_out:,} more errors of this node are not listed"))
            entries[node_id] = entry
            size += len(dumps_anything(entry))
        if entries and (more := len(self._errors) - len(entries)) > 0:
            entries[next(reversed(entries))]["errors"].append(
                _left_out(f"{more:,} more nodes have errors that are not listed")
            )
        return entries


def _left_out(message: str) -> Error:
    return error("errors_left_out", message)
