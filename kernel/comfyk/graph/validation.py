"""Refusing a prompt that cannot run, with every reason at once, before it is queued.

Constants are converted as the field does it ("12" to 12 for an INT), in place. An error has the form
`{"type", "message", "details", "extra_info"}`; `node_errors` maps node ids to
`{"errors": [...], "dependent_outputs": [...], "class_type": ...}`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from comfyk.graph.node_validation import Error, NodeValidator, error
from comfyk.nodes.links import Prompt, is_link

if TYPE_CHECKING:
    from comfyk.nodes.registry import NodeRegistry

log = logging.getLogger(__name__)

# Validation runs on the event loop: let others have a turn after so many nodes.
_NODES_PER_TURN = 200
# Numbers beyond this are no ids of nodes, and Python may refuse to write them out.
_MAX_ID = 2**63


class PromptError(Exception):
    """The prompt was refused: `error` says why, `node_errors` what is wrong at each node."""

    def __init__(self, error: Error, node_errors: dict[str, Any] | None = None) -> None:
        super().__init__(f"{error['message']}: {error['details']}" if error["details"] else error["message"])
        self.error = error
        self.node_errors = node_errors or {}


@dataclass(slots=True)
class ValidPrompt:
    """A prompt that can run, at least in part."""

    targets: list[str]
    """The output nodes that can be executed, in the prompt's order."""
    node_errors: dict[str, Any]
    """What is wrong at nodes behind other outputs, which are left out."""


def check_shape(prompt: Any) -> Prompt:
    """Make sure that a prompt from outside is one, before anything else looks at it. Raises PromptError.

    Links by number (`[5, 0]`), as some clients write them, are made links by id (`["5", 0]`), in place. That takes
    nothing from anybody: a list that is meant as a constant comes wrapped.
    """
    if not isinstance(prompt, dict):
        raise PromptError(
            error("invalid_prompt", "The prompt is not an object", f"expected node ids, got {_kind(prompt)}")
        )
    for node_id, node in prompt.items():
        where = {"node_id": node_id}
        if not isinstance(node, dict):
            raise PromptError(
                error("invalid_prompt", f"Node '{node_id}' is not an object", f"got {_kind(node)}", where)
            )
        if not isinstance(node.setdefault("inputs", {}), dict):
            details = f"expected names and values, got {_kind(node['inputs'])}"
            raise PromptError(
                error("invalid_prompt", f"The inputs of node '{node_id}' are not an object", details, where)
            )
        for value in node["inputs"].values():
            if type(value) is list and len(value) == 2 and type(value[0]) is int and 0 <= value[0] < _MAX_ID:
                by_id = str(value[0])
                if by_id in prompt:
                    value[0] = by_id
    return prompt


async def validate_prompt(
    prompt: Prompt,
    nodes: NodeRegistry,
    targets: Collection[str] | None = None,
    extra_errors: Iterable[Mapping[str, list[Error]]] = (),
) -> ValidPrompt:
    """Validate all that the outputs (those in `targets`, else all) depend on.

    `extra_errors` are found by others and count like those found here. Raises PromptError when no output can run.
    """
    missing = _unknown_nodes(prompt, nodes)
    outputs = [
        node_id
        for node_id, node in prompt.items()
        if node_id not in missing
        and nodes[node["class_type"]].is_output
        and (targets is None or node_id in targets)
    ]
    if not outputs and not missing:
        raise PromptError(error("prompt_no_outputs", "Prompt has no outputs"))

    order, cycles = _walk(prompt, outputs)
    validator = NodeValidator(prompt, nodes)
    errors: dict[str, list[Error]] = {node_id: list(found) for node_id, found in cycles.items()}
    for count, node_id in enumerate(order, 1):
        if node_id in missing:
            continue
        found = await validator.validate(node_id)
        if found:
            errors.setdefault(node_id, []).extend(found)
        if count % _NODES_PER_TURN == 0:
            await asyncio.sleep(0)
    for more in extra_errors:
        for node_id, found in more.items():
            if node_id in prompt:
                errors.setdefault(node_id, []).extend(found)
    for node_id, found in missing.items():
        errors.setdefault(node_id, []).insert(0, found)
    if not errors:
        return ValidPrompt(outputs, {})

    behind = _outputs_behind(prompt, order, outputs, errors)
    node_errors = {
        node_id: {
            "errors": errors[node_id],
            "dependent_outputs": behind.get(node_id, []),
            "class_type": _class_of(prompt[node_id]) or "",
        }
        for node_id in [*order, *(node_id for node_id in missing if node_id not in behind)]
        if node_id in errors
    }
    if missing:
        raise PromptError(next(iter(missing.values())), node_errors)
    failed = {output for entry in node_errors.values() for output in entry["dependent_outputs"]}
    good = [output for output in outputs if output not in failed]
    for node_id, entry in node_errors.items():
        for found in entry["errors"]:
            log.warning(
                "prompt: node %s (%s): %s: %s",
                node_id,
                entry["class_type"],
                found["message"],
                found["details"],
            )
    if not good:
        details = "\n".join(
            f"{found['message']}: {found['details']}"
            for entry in node_errors.values()
            for found in entry["errors"]
        )
        raise PromptError(
            error("prompt_outputs_failed_validation", "Prompt outputs failed validation", details),
            node_errors,
        )
    return ValidPrompt(good, node_errors)


def _class_of(node: Mapping[str, Any]) -> str | None:
    """The class that a node names, if what it names can be one."""
    class_type = node.get("class_type")
    return class_type if isinstance(class_type, str) else None


def _unknown_nodes(prompt: Prompt, nodes: NodeRegistry) -> dict[str, Error]:
    """The nodes whose class is not installed, with the error of each."""
    found: dict[str, Error] = {}
    for node_id, node in prompt.items():
        if (known := _class_of(node)) is not None and known in nodes:
            continue
        class_type = node.get("class_type")
        meta = node.get("_meta")
        title = meta.get("title") if isinstance(meta, dict) else None
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


def _walk(prompt: Prompt, outputs: list[str]) -> tuple[list[str], dict[str, list[Error]]]:
    """All nodes that the outputs depend on, each after those it links to, and an error for each node of a cycle."""
    order: list[str] = []
    done: set[str] = set()
    path: dict[str, None] = {}
    cycles: dict[str, list[Error]] = {}
    for output in outputs:
        stack = [(output, False)]
        while stack:
            node_id, leaving = stack.pop()
            if leaving:
                del path[node_id]
                done.add(node_id)
                order.append(node_id)
                continue
            if node_id in done:
                continue
            if node_id in path:
                _add_cycle(prompt, list(path), node_id, cycles)
                continue
            path[node_id] = None
            stack.append((node_id, True))
            sources = [value[0] for value in prompt[node_id]["inputs"].values() if is_link(value)]
            stack.extend(
                (source, False) for source in reversed(sources) if source in prompt and source not in done
            )
    return order, cycles


def _add_cycle(prompt: Prompt, path: list[str], node_id: str, cycles: dict[str, list[Error]]) -> None:
    members = path[path.index(node_id) :]
    if any(member in cycles for member in members):
        return
    way = " -> ".join(f"{member} ({prompt[member].get('class_type')})" for member in [*members, node_id])
    for member in members:
        extra = {"node_id": member, "cycle_nodes": members}
        cycles[member] = [error("dependency_cycle", "Dependency cycle detected", way, extra)]


def _outputs_behind(
    prompt: Prompt, order: list[str], outputs: list[str], wanted: Collection[str]
) -> dict[str, list[str]]:
    """For each wanted node the outputs that depend on it.

    Sets of outputs are the bits of numbers; they are only written out for the nodes that are wanted.
    """
    bits = {output: 1 << index for index, output in enumerate(outputs)}
    behind = {node_id: bits.get(node_id, 0) for node_id in order}
    for _ in range(2):  # the second pass carries the bits round a cycle
        for node_id in reversed(order):
            for value in prompt[node_id]["inputs"].values():
                if is_link(value) and value[0] in behind:
                    behind[value[0]] |= behind[node_id]
    return {
        node_id: [output for output, bit in zip(outputs, reversed(f"{mask:b}"), strict=False) if bit == "1"]
        for node_id, mask in behind.items()
        if node_id in wanted
    }


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return {dict: "an object", list: "a list", str: "a string", bool: "true or false"}.get(
        type(value), "a number"
    )
