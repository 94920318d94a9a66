"""Validating one node of a prompt: its links, its constants, and what its author checks."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from comfyk.io import ExecutionBlocker
from comfyk.nodes.definition import InputSpec, InputTypes, LiveInputs, NodeDef
from comfyk.nodes.links import Prompt, is_link, unwrap
from comfyk.nodes.types import is_compatible
from comfyk.wire import text_of

if TYPE_CHECKING:
    from comfyk.nodes.registry import NodeRegistry

log = logging.getLogger(__name__)

Error = dict[str, Any]

# A combo with more options than this (a folder of models, say) is not repeated in the error.
_OPTIONS_SHOWN = 20


def error(type: str, message: str, details: str = "", extra_info: Mapping[str, Any] | None = None) -> Error:
    """An error in the form that clients read."""
    return {"type": type, "message": message, "details": details, "extra_info": dict(extra_info or {})}


class NodeValidator:
    """Validates the nodes of one prompt; a class's schema is read once."""

    def __init__(self, prompt: Prompt, nodes: NodeRegistry) -> None:
        self._prompt = prompt
        self._nodes = nodes
        self._types: dict[str, InputTypes] = {}

    async def validate(self, node_id: str) -> list[Error]:
        """Everything wrong at this node; its constants are converted in place."""
        node = self._prompt[node_id]
        definition = self._nodes[node["class_type"]]
        values: dict[str, Any] = node["inputs"]
        try:
            types = self._types.get(definition.name)
            if types is None:
                types = self._types[definition.name] = definition.input_types()
            live = definition.live_inputs(values, types)
            checked_by_author, takes_all = definition.validated_names()
            errors: list[Error] = []
            received_types: dict[str, Any] = {}
            for name, spec in live.specs.items():
                found = self._validate_input(
                    name,
                    spec,
                    values,
                    received_types,
                    name in checked_by_author or takes_all,
                    checked_by_author,
                )
                if found is not None:
                    errors.append(found)
            if definition.has("validate") and (checked_by_author or takes_all):
                errors.extend(await self._ask_author(node_id, definition, live, values, received_types))
            return errors
        except (Exception, SystemExit) as failure:
            log.warning("node %s (%s) failed while it was validated", node_id, definition.name, exc_info=True)
            kind = type(failure)
            extra = {"exception_type": f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")}
            return [
                error(
                    "exception_during_validation", "Exception when validating node", text_of(failure), extra
                )
            ]

    def _validate_input(
        self,
        name: str,
        spec: InputSpec,
        values: dict[str, Any],
        received_types: dict[str, Any],
        author_checks: bool,
        checked_by_author: frozenset[str],
    ) -> Error | None:
        if name not in values:
            if not spec.required:
                return None
            details = name.rpartition(".")[2]
            return error("required_input_missing", "Required input is missing", details, {"input_name": name})
        value = values[name]
        config = (spec.type, dict(spec.options))
        if isinstance(value, list):
            return self._validate_link(
                name, spec, config, value, received_types, "input_types" in checked_by_author
            )
        try:
            value = _convert(spec.type, unwrap(value))
        except (ValueError, TypeError, OverflowError) as failure:
            return error(
                "invalid_input_type",
                f"Failed to convert an input value to a {spec.type} value",
                f"{name}, {value}, {failure}",
                {
                    "input_name": name,
                    "input_config": config,
                    "received_value": value,
                    "exception_message": str(failure),
                },
            )
        if value is None and spec.choices is not None:
            message = f"{name}: null is none of the options"
            return error("value_not_in_list", "Value not in list", message, {"input_name": name})
        if not isinstance(value, list):  # a list would read as a link: it stays in its wrapper
            values[name] = value
        return None if author_checks else _check_limits(name, spec, config, value)

    def _validate_link(
        self,
        name: str,
        spec: InputSpec,
        config: tuple[Any, Any],
        value: list[Any],
        received_types: dict[str, Any],
        author_checks_types: bool,
    ) -> Error | None:
        extra: dict[str, Any] = {"input_name": name, "input_config": config, "received_value": value}
        if not is_link(value):
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            return error("bad_linked_input", message, name, extra)
        source = self._prompt.get(value[0])
        if source is None:
            message = "Bad linked input, the node it links to is not in the prompt"
            return error("bad_linked_input", message, f"{name}: node '{value[0]}'", extra)
        class_type = source.get("class_type")
        definition = self._nodes.get(class_type) if isinstance(class_type, str) else None
        if definition is None:
            return None  # that node is refused for its class
        outputs = definition.output_types
        if value[1] != int(value[1]) or not 0 <= value[1] < len(outputs):
            message = "Bad linked input, the node it links to has no such output"
            details = f"{name}: output {value[1]} of node '{value[0]}', which has {len(outputs)}"
            return error("bad_linked_input", message, details, extra)
        received = outputs[int(value[1])]
        received_types[name] = received
        if author_checks_types or is_compatible(received, spec.type):
            return None
        return error(
            "return_type_mismatch",
            "Return type mismatch between linked nodes",
            f"{name}, received_type({received}) mismatch input_type({spec.type})",
            {"input_name": name, "input_config": config, "received_type": received, "linked_node": value},
        )

    async def _ask_author(
        self,
        node_id: str,
        definition: NodeDef,
        live: LiveInputs,
        values: dict[str, Any],
        received_types: dict[str, Any],
    ) -> list[Error]:
        names, takes_all = definition.validated_names()
        arguments: dict[str, Any] = {}
        for name, value in values.items():
            # `size.width` is part of the argument `size` that a dynamic input becomes.
            if not (takes_all or name in names or name.partition(".")[0] in names):
                continue
            if not (name in live.specs or definition.accept_all_inputs):
                continue
            spec = live.specs.get(name)
            linked = is_link(value) and not (spec is not None and spec.raw_link)
            arguments[name] = None if linked else unwrap(value)
        asked = list(arguments)
        if "input_types" in names:
            arguments["input_types"] = received_types
        if definition.input_is_list:
            arguments = {name: [value] for name, value in arguments.items()}
        hidden = {"UNIQUE_ID": node_id, "PROMPT": {}, "DYNPROMPT": None}
        answer = definition.call(definition.cls, "validate", arguments, live, hidden)
        if inspect.isawaitable(answer):
            answer = await answer
        if answer is True or isinstance(answer, ExecutionBlocker):
            return []
        reason = "" if answer is False else f" - {answer}"
        return [
            error(
                "custom_validation_failed",
                "Custom validation failed for node",
                f"{name}{reason}",
                {"input_name": name},
            )
            for name in asked or ["(node)"]
        ]


def _convert(type: Any, value: Any) -> Any:
    match type:
        case "INT":
            return int(value)
        case "FLOAT":
            number = float(value)
            if not math.isfinite(number):
                raise ValueError("not a finite number")
            return number
        case "STRING":
            return str(value)
        case "BOOLEAN":
            return bool(value)
    return value


def _check_limits(name: str, spec: InputSpec, config: tuple[Any, Any], value: Any) -> Error | None:
    extra = {"input_name": name, "input_config": config, "received_value": value}
    if isinstance(value, (int, float)):
        low, high = spec.options.get("min"), spec.options.get("max")
        if isinstance(low, (int, float)) and value < low:
            return error("value_smaller_than_min", f"Value {value} smaller than min of {low}", name, extra)
        if isinstance(high, (int, float)) and value > high:
            return error("value_bigger_than_max", f"Value {value} bigger than max of {high}", name, extra)
    options = spec.choices
    if options is None:
        return None
    chosen = value if isinstance(value, list) and spec.options.get("multiselect") else [value]
    unknown = [item for item in chosen if item not in options]
    if not unknown:
        return None
    shown = str(options)
    if len(options) > _OPTIONS_SHOWN:
        shown = f"(list of length {len(options)})"
        extra["input_config"] = None
    details = f"{name}: {', '.join(map(repr, unknown))} not in {shown}"
    return error("value_not_in_list", "Value not in list", details, extra)
