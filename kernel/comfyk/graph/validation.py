"""Refusing a prompt that cannot run, with every reason at once, before it is queued.

Constants are converted as the field does it ("12" to 12 for an INT), in place. An error has the form
`{"type", "message", "details", "extra_info"}`; `node_errors` maps node ids to
`{"errors": [...], "dependent_outputs": [...], "class_type": ...}`. Everything is linear in nodes plus links, and what
is told of it is bounded (`comfyk.graph.errors`).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from comfyk.foreign_code import FOREIGN, Overloaded
from comfyk.graph.errors import (
    LIST_SHOWN,
    Error,
    NodeErrors,
    PromptError,
    cut,
    error,
    joined,
    shown,
    shown_list,
)
from comfyk.graph.node_validation import NodeValidator
from comfyk.nodes.definition import NodeDef
from comfyk.nodes.links import Prompt, is_link

if TYPE_CHECKING:
    from comfyk.nodes.registry import NodeRegistry

__all__ = ["PromptError", "ValidPrompt", "check_shape", "validate_prompt"]

log = logging.getLogger(__name__)

MAX_NODES = 100_000
"""Nodes in a prompt, unless a setting says otherwise."""
_SMALL = 100
"""A prompt of so many nodes, and nodes of so many inputs, are validated on the event loop."""
_LINES_LOGGED = 20
# Numbers beyond this are no ids of nodes, and Python may refuse to write them out.
_MAX_ID = 2**63


@dataclass(slots=True)
class ValidPrompt:
    """A prompt that can run, at least in part."""

    targets: list[str]
    """The output nodes that can be executed, in the prompt's order."""
    node_errors: dict[str, Any]
    """What is wrong at nodes behind other outputs, which are left out."""


def check_shape(prompt: Any, max_nodes: int = MAX_NODES) -> Prompt:
    """Make sure that a prompt from outside is one, before anything else looks at it. Raises PromptError.

    Links by number (`[5, 0]`), as some clients write them, are made links by id (`["5", 0]`), in place. That takes
    nothing from anybody: a list that is meant as a constant comes wrapped.
    """
    if not isinstance(prompt, dict):
        raise PromptError(
            error("invalid_prompt", "The prompt is not an object", f"expected node ids, got {_kind(prompt)}")
        )
    if len(prompt) > max_nodes:
        details = f"it has {len(prompt):,}, and the setting jobs.max_nodes allows {max_nodes:,}"
        extra = {"nodes": len(prompt), "max_nodes": max_nodes}
        raise PromptError(error("too_many_nodes", "The prompt has too many nodes", details, extra))
    for node_id, node in prompt.items():
        if not isinstance(node, dict):
            raise _no_node(node_id, "is not an object", f"got {_kind(node)}")
        inputs = node.setdefault("inputs", {})
        if not isinstance(inputs, dict):
            raise _no_node(
                node_id, "has no object as its inputs", f"expected names and values, got {_kind(inputs)}"
            )
        for value in inputs.values():
            if type(value) is list and len(value) == 2 and type(value[0]) is int and 0 <= value[0] < _MAX_ID:
                by_id = str(value[0])
                if by_id in prompt:
                    value[0] = by_id
    return prompt


def _no_node(node_id: str, problem: str, details: str) -> PromptError:
    name = cut(node_id, 200)
    return PromptError(error("invalid_prompt", f"Node '{name}' {problem}", details, {"node_id": name}))


async def validate_prompt(
    prompt: Prompt,
    nodes: NodeRegistry,
    targets: Collection[str] | None = None,
    extra_errors: Iterable[Mapping[str, list[Error]]] = (),
) -> ValidPrompt:
    """Validate all that the outputs (those in `targets`, else all) depend on.

    `extra_errors` are found by others and count like those found here. Raises PromptError when no output can run.

    A small prompt is validated at once. A large one, and one with nodes whose authors check it or may take their time
    to say what inputs they have, is validated in a thread, so that nobody else waits for it.
    """
    definitions = {name: nodes.get(name) for node in prompt.values() if (name := _class_of(node)) is not None}
    if not _may_take_long(prompt, definitions):
        return _validate(prompt, definitions, targets, extra_errors)
    try:
        return await FOREIGN.run(lambda: _validate(prompt, definitions, targets, extra_errors))
    except Overloaded as failure:
        raise PromptError(
            error("validation_overloaded", "The prompt could not be validated", str(failure))
        ) from None


def _may_take_long(prompt: Prompt, definitions: Mapping[str, NodeDef | None]) -> bool:
    if len(prompt) > _SMALL or any(len(node["inputs"]) > _SMALL for node in prompt.values()):
        return True
    return any(
        one is not None and (one.has("validate") or not one.schema_is_quick) for one in definitions.values()
    )


def _validate(
    prompt: Prompt,
    definitions: Mapping[str, NodeDef | None],
    targets: Collection[str] | None,
    extra_errors: Iterable[Mapping[str, list[Error]]],
) -> ValidPrompt:
    missing = _unknown_nodes(prompt, definitions)
    wanted = None if targets is None else set(targets)
    outputs = [
        node_id
        for node_id, node in prompt.items()
        if (definition := definitions.get(_class_of(node) or "")) is not None
        and definition.is_output
        and (wanted is None or node_id in wanted)
    ]
    if not outputs and not missing:
        raise PromptError(error("prompt_no_outputs", "Prompt has no outputs"))

    errors = NodeErrors()
    order = _walk(prompt, outputs, errors)
    validator = NodeValidator(prompt, definitions)
    for node_id in order:
        if node_id not in missing:
            errors.add(node_id, validator.validate(node_id))
    for more in extra_errors:
        for node_id, found in more.items():
            if node_id in prompt:
                errors.add(node_id, found)
    for node_id, found in missing.items():
        errors.add(node_id, [found], first=True)
    if not errors:
        return ValidPrompt(outputs, {})

    behind = _outputs_behind(prompt, order, outputs, errors.listed())
    in_order = dict.fromkeys([*order, *missing])
    classes = {node_id: cut(_class_of(prompt[node_id]) or "", 200) for node_id in errors.listed()}
    node_errors = errors.written(in_order, behind, classes)
    if missing:
        raise PromptError(next(iter(missing.values())), node_errors)
    failed = _depending_on(prompt, order, errors)
    good = [output for output in outputs if output not in failed]
    _log(node_errors)
    if not good:
        told = [
            f"{one['message']}: {one['details']}" for entry in node_errors.values() for one in entry["errors"]
        ]
        raise PromptError(
            error(
                "prompt_outputs_failed_validation",
                "Prompt outputs failed validation",
                joined(told, len(told), separator="\n", length=500),
            ),
            node_errors,
        )
    return ValidPrompt(good, node_errors)


def _log(node_errors: Mapping[str, Any]) -> None:
    lines = [
        (
            node_id,
            entry["class_type"],
            cut(str(found.get("message")), 200),
            cut(str(found.get("details")), 200),
        )
        for node_id, entry in node_errors.items()
        for found in entry["errors"]
    ]
    for line in lines[:_LINES_LOGGED]:
        log.warning("prompt: node %.200s (%s): %s: %s", *line)
    if len(lines) > _LINES_LOGGED:
        log.warning("prompt: %d more errors, which its sender was told", len(lines) - _LINES_LOGGED)


def _class_of(node: Mapping[str, Any]) -> str | None:
    """The class that a node names, if what it names can be one."""
    class_type = node.get("class_type")
    return class_type if isinstance(class_type, str) else None


def _unknown_nodes(prompt: Prompt, definitions: Mapping[str, NodeDef | None]) -> dict[str, Error]:
    """The nodes whose class is not installed, with the error of each."""
    found: dict[str, Error] = {}
    for node_id, node in prompt.items():
        if (known := _class_of(node)) is not None and definitions.get(known) is not None:
            continue
        class_type = shown(node.get("class_type"))
        meta = node.get("_meta")
        title = shown(meta.get("title")) if isinstance(meta, dict) else None
        if class_type is None:
            name = title or f"ID #{node_id}"
            message = (
                f"Node '{name}' has no class_type. The workflow may be corrupted or a custom node is missing."
            )
        else:
            message = f"Node '{title or class_type}' not found. The custom node may not be installed."
        extra = {"node_id": node_id, "class_type": class_type, "node_title": title or class_type}
        found[node_id] = error("missing_node_type", message, f"Node ID '#{node_id}'", extra)
    return found


def _walk(prompt: Prompt, outputs: list[str], errors: NodeErrors) -> list[str]:
    """All nodes that the outputs depend on, each after those it links to. Nodes of a cycle get an error."""
    order: list[str] = []
    done: set[str] = set()
    path: list[str] = []
    place: dict[str, int] = {}
    """Where in the path a node is."""
    in_cycle: list[int] = []
    """For each node of the path the place of the last one up to it that is in a cycle which was found, or -1."""
    for output in outputs:
        stack = [(output, False)]
        while stack:
            node_id, leaving = stack.pop()
            if leaving:
                del place[node_id]
                path.pop()
                in_cycle.pop()
                done.add(node_id)
                order.append(node_id)
                continue
            if node_id in done:
                continue
            if (start := place.get(node_id)) is not None:
                if in_cycle[-1] < start:  # else one of its nodes is in another cycle, which is told
                    _add_cycle(prompt, path[start:], errors)
                    in_cycle[start:] = range(start, len(path))
                continue
            place[node_id] = len(path)
            path.append(node_id)
            in_cycle.append(in_cycle[-1] if in_cycle else -1)
            stack.append((node_id, True))
            sources = [value[0] for value in prompt[node_id]["inputs"].values() if is_link(value)]
            stack.extend(
                (source, False) for source in reversed(sources) if source in prompt and source not in done
            )
    return order


def _add_cycle(prompt: Prompt, members: list[str], errors: NodeErrors) -> None:
    way = (f"{member} ({prompt[member].get('class_type')})" for member in [*members, members[0]])
    told = joined(way, len(members) + 1, separator=" -> ")
    listed = shown_list(members)
    for member in members:
        extra = {"node_id": member, "cycle_nodes": listed}
        if len(members) > len(listed):
            extra["cycle_length"] = len(members)
        errors.add(member, [error("dependency_cycle", "Dependency cycle detected", told, extra)])


def _depending_on(prompt: Prompt, order: list[str], errors: NodeErrors) -> set[str]:
    """The nodes that have errors, or depend on one that has."""
    failed = {node_id for node_id in order if node_id in errors}
    consumers: dict[str, list[str]] = {}
    for node_id in order:
        for value in prompt[node_id]["inputs"].values():
            if is_link(value):
                consumers.setdefault(value[0], []).append(node_id)
    reached = list(failed)
    while reached:
        for consumer in consumers.get(reached.pop(), ()):
            if consumer not in failed:
                failed.add(consumer)
                reached.append(consumer)
    return failed


def _outputs_behind(
    prompt: Prompt, order: list[str], outputs: list[str], wanted: list[str]
) -> dict[str, tuple[list[str], int]]:
    """For each wanted node the first outputs that depend on it, and how many do.

    Each node gets a number whose bits are the wanted nodes that it depends on.
    """
    bits = {node_id: 1 << index for index, node_id in enumerate(wanted)}
    masks = {node_id: bits.get(node_id, 0) for node_id in order}
    for _ in range(2):  # the second pass carries the bits round a cycle
        for node_id in order:
            mask = masks[node_id]
            for value in prompt[node_id]["inputs"].values():
                if is_link(value):
                    mask |= masks.get(value[0], 0)
            masks[node_id] = mask
    found: dict[str, list[str]] = {node_id: [] for node_id in wanted}
    counts = dict.fromkeys(wanted, 0)
    for output in outputs:
        mask = masks[output]
        while mask:
            lowest = mask & -mask
            mask ^= lowest
            node_id = wanted[lowest.bit_length() - 1]
            counts[node_id] += 1
            if counts[node_id] <= LIST_SHOWN:
                found[node_id].append(output)
    return {node_id: (found[node_id], counts[node_id]) for node_id in wanted}


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return {dict: "an object", list: "a list", str: "a string", bool: "true or false"}.get(
        type(value), "a number"
    )
