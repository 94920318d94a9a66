"""Validating one node of a prompt: its links, its constants, and what its author checks."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from comfyk.foreign_code import is_ours, watch
from comfyk.graph.errors import ERRORS_SHOWN, Error, cut, error, joined, shown
from comfyk.io import ExecutionBlocker
from comfyk.nodes.definition import InputSpec, InputTypes, LiveInputs, NodeDef
from comfyk.nodes.links import Prompt, is_link, unwrap
from comfyk.nodes.types import is_compatible
from comfyk.wire import text_of

log = logging.getLogger(__name__)

# A combo with more options than this (a folder of models, say) is not repeated in the error.
_OPTIONS_SHOWN = 20
_WARNINGS = 10
"""Tracebacks of authors' code in the log, of one prompt."""
_QUICK_S, _SLOW_S = 0.005, 0.02
"""A schema that was had in so little time is asked for on the event loop, until it takes so much."""


class NodeValidator:
    """Validates the nodes of one prompt; a class's schema is read once. It blocks as long as authors' code does."""

    def __init__(self, prompt: Prompt, definitions: Mapping[str, NodeDef | None]) -> None:
        """`definitions` are the classes of the prompt's nodes, by name."""
        self._prompt = prompt
        self._definitions = definitions
        self._types: dict[str, InputTypes] = {}
        self._warned = 0

    def validate(self, node_id: str) -> list[Error]:
        """Everything wrong at this node, whose class is known; its constants are converted in place."""
        node = self._prompt[node_id]
        definition = self._definitions[node["class_type"]]
        assert definition is not None
        values: dict[str, Any] = node["inputs"]
        try:
            types = self._types.get(definition.name)
            if types is None:
                types = self._types[definition.name] = self._input_types(definition)
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
                errors.extend(self._ask_author(node_id, definition, live, values, received_types))
            return errors
        except BaseException as failure:
            if is_ours(failure):
                raise
            if self._warned < _WARNINGS:
                self._warned += 1
                log.warning(
                    "node %.200s (%s) failed while it was validated", node_id, definition.name, exc_info=True
                )
            kind = type(failure)
            extra = {"exception_type": f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")}
            return [
                error(
                    "exception_during_validation", "Exception when validating node", text_of(failure), extra
                )
            ]

    @staticmethod
    def _input_types(definition: NodeDef) -> InputTypes:
        if definition.is_static:
            return definition.input_types()
        begun = time.perf_counter()
        with watch("the schema of node", definition.name):
            types = definition.input_types()
        took = time.perf_counter() - begun
        definition.schema_is_quick = took < (_SLOW_S if definition.schema_is_quick else _QUICK_S)
        return types

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
        if isinstance(value, list):
            return self._validate_link(name, spec, value, received_types, "input_types" in checked_by_author)
        try:
            value = _convert(spec.type, unwrap(value))
        except (ValueError, TypeError, OverflowError) as failure:
            return error(
                "invalid_input_type",
                f"Failed to convert an input value to a {spec.type} value",
                f"{name}, {shown(value)}, {failure}",
                {**_received(spec, value), "exception_message": cut(str(failure))},
            )
        value = _as_listed(spec, value)
        if value is None and spec.choices is not None:
            message = f"{name}: null is none of the options"
            return error("value_not_in_list", "Value not in list", message, {"input_name": name})
        if not isinstance(value, list):  # a list would read as a link: it stays in its wrapper
            values[name] = value
        return None if author_checks else _check_limits(spec, value)

    def _validate_link(
        self,
        name: str,
        spec: InputSpec,
        value: list[Any],
        received_types: dict[str, Any],
        author_checks_types: bool,
    ) -> Error | None:
        if not is_link(value):
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            return error("bad_linked_input", message, name, _received(spec, value))
        source = self._prompt.get(value[0])
        if source is None:
            message = "Bad linked input, the node it links to is not in the prompt"
            return error(
                "bad_linked_input", message, f"{name}: node '{cut(value[0], 200)}'", _received(spec, value)
            )
        class_type = source.get("class_type")
        definition = self._definitions.get(class_type) if isinstance(class_type, str) else None
        if definition is None:
            return None  # that node is refused for its class
        outputs = definition.output_types
        if value[1] != int(value[1]) or not 0 <= value[1] < len(outputs):
            message = "Bad linked input, the node it links to has no such output"
            details = f"{name}: output {value[1]} of node '{value[0]}', which has {len(outputs)}"
            return error("bad_linked_input", message, details, _received(spec, value))
        received = outputs[int(value[1])]
        received_types[name] = received
        if author_checks_types or is_compatible(received, spec.type):
            return None
        return error(
            "return_type_mismatch",
            "Return type mismatch between linked nodes",
            f"{name}, received_type({received}) mismatch input_type({spec.type})",
            {
                "input_name": name,
                "input_config": _config(spec),
                "received_type": received,
                "linked_node": shown(value),
            },
        )

    def _ask_author(
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
            if is_link(value) and not (spec is not None and spec.raw_link):
                if "input_types" not in names:
                    return []  # its value comes with the job: authors who do not count with links cannot judge it
                arguments[name] = None
            else:
                arguments[name] = unwrap(value)
        asked = list(arguments)
        if "input_types" in names:
            arguments["input_types"] = received_types
        if definition.input_is_list:
            arguments = {name: [value] for name, value in arguments.items()}
        hidden = {"UNIQUE_ID": node_id, "PROMPT": {}, "DYNPROMPT": None}
        with watch("what checks the inputs of node", definition.name):
            answer = definition.call(definition.cls, "validate", arguments, live, hidden)
            if inspect.isawaitable(answer):
                answer = asyncio.run(_await(answer))
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
            for name in (asked or ["(node)"])[: ERRORS_SHOWN + 1]
        ]


async def _await(answer: Awaitable[Any]) -> Any:
    return await answer


def _received(spec: InputSpec, value: Any) -> dict[str, Any]:
    """What an error says of an input and its value."""
    return {"input_name": spec.name, "input_config": _config(spec), "received_value": shown(value)}


def _config(spec: InputSpec) -> tuple[Any, Any] | None:
    """`(type, options)` as an error shows it: not with a long list of choices in it."""
    for choices in (spec.type, spec.options.get("options")):
        if isinstance(choices, (list, tuple)) and len(choices) > _OPTIONS_SHOWN:
            return None
    return spec.type, dict(spec.options)


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


def _as_listed(spec: InputSpec, value: Any) -> Any:
    """The option that a value means: a file keeps its name on a system that separates folders otherwise."""
    options = spec.choices
    if (
        not isinstance(value, str)
        or options is None
        or not ("\\" in value or "/" in value)
        or value in options
    ):
        return value
    return next(
        (other for other in (value.replace("\\", "/"), value.replace("/", "\\")) if other in options), value
    )


def _check_limits(spec: InputSpec, value: Any) -> Error | None:
    name, options = spec.name, spec.options
    if isinstance(value, (int, float)):
        low, high = options.get("min"), options.get("max")
        if isinstance(low, (int, float)) and value < low:
            message = f"Value {shown(value)} smaller than min of {low}"
            return error("value_smaller_than_min", message, name, _received(spec, value))
        if isinstance(high, (int, float)) and value > high:
            message = f"Value {shown(value)} bigger than max of {high}"
            return error("value_bigger_than_max", message, name, _received(spec, value))
    choices = spec.choices
    if choices is None:
        return None
    chosen = value if isinstance(value, list) and options.get("multiselect") else [value]
    unknown = _not_among(chosen, choices)
    if not unknown:
        return None
    offered = str(choices) if len(choices) <= _OPTIONS_SHOWN else f"(list of length {len(choices)})"
    details = f"{name}: {joined((repr(shown(one)) for one in unknown), len(unknown))} not in {offered}"
    return error("value_not_in_list", "Value not in list", details, _received(spec, value))


def _not_among(chosen: Sequence[Any], options: Sequence[Any]) -> Sequence[Any]:
    """Those that are none of the options; of many, in one go."""
    if len(chosen) > 1:
        try:
            known = set(options)
            return [item for item in chosen if item not in known]
        except TypeError:  # lists and objects among them
            if len(chosen) > len(options):
                return chosen  # no choice can be made twice, so some are wrong
    return [item for item in chosen if item not in options]
