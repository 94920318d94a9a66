"""A typed node (`comfyk.io.ComfyNode`) as the kernel sees it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from comfyk.io.expansion import expand, is_dynamic, nest
from comfyk.io.node import ComfyNode, with_hidden
from comfyk.io.schema import HiddenHolder, Schema
from comfyk.nodes.definition import InputSpec, InputTypes, LiveInputs, Method, NodeDef, NodeResult
from comfyk.nodes.results import read_result
from comfyk.nodes.signature import argument_names

_METHODS: dict[Method, str] = {
    "execute": "execute",
    "check_lazy_status": "check_lazy_status",
    "fingerprint": "fingerprint_inputs",
    "validate": "validate_inputs",
}


class TypedNodeDef(NodeDef):
    """Raises NodeDefinitionError or ValueError when the class or its schema cannot work."""

    def __init__(
        self,
        cls: type[ComfyNode],
        *,
        name: str | None = None,
        display_name: str | None = None,
        python_module: str | None = None,
    ):
        schema = cls.GET_SCHEMA()
        self.cls: type[ComfyNode] = cls
        self.schema = schema
        self.name = name or schema.node_id
        self.display_name = display_name or schema.display_name or self.name
        self.python_module = python_module or cls.RELATIVE_PYTHON_MODULE or "nodes"
        self.output_types = cls.RETURN_TYPES
        self.output_is_list = cls.OUTPUT_IS_LIST
        self.input_is_list = schema.is_input_list
        self.is_output = schema.is_output_node
        self.has_intermediate_output = schema.has_intermediate_output
        self.not_idempotent = schema.not_idempotent
        self.accept_all_inputs = schema.accept_all_inputs
        self.is_async = inspect.iscoroutinefunction(cls.execute)
        self._live_inputs = schema.live_inputs
        self._same_schema = schema.is_static
        self.is_static = self.schema_is_quick = self._same_schema and not self._live_inputs
        self._types = schema.input_types() if self.is_static else None
        self._fixed = None
        if self._types is not None and not is_dynamic(self._types):
            self._fixed = _live(self._types, {})
        self._overridden = frozenset(method for method, name in _METHODS.items() if cls.overrides(name))
        self._has_lazy = any(each.lazy for one in schema.inputs for each in one.get_all())
        self._validated = (
            argument_names(cls.validate_inputs) if self.has("validate") else (frozenset(), False)
        )

    @property
    def wants_unique_id(self) -> bool:
        return any(one.value == "UNIQUE_ID" for one in self.schema.hidden)

    def _schema_now(self) -> Schema:
        return self.schema if self._same_schema else self.cls.FINALIZE_SCHEMA()

    def input_types(self) -> InputTypes:
        if self._types is not None:
            return self._types
        return self._schema_now().input_types()

    def live_inputs(self, values: Mapping[str, Any], types: InputTypes | None = None) -> LiveInputs:
        if self._fixed is not None:
            return self._fixed
        return _live(self.input_types() if types is None else types, values)

    def info(self, types: InputTypes | None = None) -> dict[str, Any]:
        record = self._schema_now().get_v1_info(self.cls, self.input_types() if types is None else types)
        record.name = self.name
        record.display_name = self.display_name
        record.python_module = self.python_module
        return record.as_dict()

    def has(self, method: Method) -> bool:
        # without a check_lazy_status of its own, such a node needs whatever is lazy
        return method in self._overridden or (method == "check_lazy_status" and self._has_lazy)

    def validated_names(self) -> tuple[frozenset[str], bool]:
        return self._validated

    def create(self) -> type[ComfyNode]:
        return self.cls

    def call(
        self, obj: Any, method: Method, values: Mapping[str, Any], live: LiveInputs, hidden: Mapping[str, Any]
    ) -> Any:
        if method == "check_lazy_status" and method not in self._overridden:
            return [name for name, value in values.items() if _missing(value, self.input_is_list)]
        cls = self.cls
        if live.hidden:
            asked = {kind: hidden.get(kind) for kind in live.hidden.values()}
            cls = with_hidden(cls, HiddenHolder.from_dict(asked))
        arguments = nest(values, live.paths, live.empty_paths) if live.paths else dict(values)
        if method == "validate":
            names, takes_any = self._validated
            if not takes_any:
                arguments = {name: value for name, value in arguments.items() if name in names}
        return getattr(cls, _METHODS[method])(**arguments)

    def result(self, returned: Any) -> NodeResult:
        result = read_result(self.name, returned)
        if result.expand is not None and not self.schema.enable_expand:
            raise TypeError(f"node {self.name} returned a subgraph; set enable_expand=True in its schema")
        return result


def _missing(value: Any, is_list: bool) -> bool:
    """Whether a lazy input is still to come: None, or a list of nothing but None where nodes get lists."""
    return value is None or (is_list and bool(value) and all(one is None for one in value))


def _live(types: InputTypes, values: Mapping[str, Any]) -> LiveInputs:
    expansion = expand(types, values)
    specs = {
        name: InputSpec(name, spec[0], required, spec[1] if len(spec) > 1 else {})
        for name, (required, spec) in expansion.inputs.items()
    }
    hidden = {
        name: spec if isinstance(spec, str) else spec[0] for name, spec in types.get("hidden", {}).items()
    }
    return LiveInputs(specs, hidden, expansion.paths, expansion.empty)
