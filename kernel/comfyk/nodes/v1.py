"""A V1 node (`INPUT_TYPES`, `RETURN_TYPES`, `FUNCTION`) as the kernel sees it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from comfyk.foreign_code import describe, is_ours
from comfyk.io.node import NodeDefinitionError
from comfyk.io.schema import Hidden, NodeInfoV1
from comfyk.nodes.definition import InputSpec, InputTypes, LiveInputs, Method, NodeDef, NodeResult
from comfyk.nodes.results import read_result
from comfyk.nodes.signature import argument_names

_METHODS: dict[Method, str] = {
    "check_lazy_status": "check_lazy_status",
    "fingerprint": "IS_CHANGED",
    "validate": "VALIDATE_INPUTS",
}

_KNOWN_HIDDEN = frozenset(one.value for one in Hidden)


class V1NodeDef(NodeDef):
    """Raises NodeDefinitionError when the class lacks what every V1 node has."""

    is_static = False
    accept_all_inputs = False

    def __init__(
        self,
        cls: type,
        *,
        name: str | None = None,
        display_name: str | None = None,
        python_module: str | None = None,
    ):
        self.cls = cls
        self.name = name or cls.__name__
        self.display_name = display_name or self.name
        self.python_module = python_module or getattr(cls, "RELATIVE_PYTHON_MODULE", None) or "nodes"
        self._function = self._read_function()
        self.output_types = self._read_tuple("RETURN_TYPES")
        self.output_is_list = self._read_output_is_list()
        self.input_is_list = bool(getattr(cls, "INPUT_IS_LIST", False))
        self.is_output = bool(getattr(cls, "OUTPUT_NODE", False))
        self.has_intermediate_output = bool(getattr(cls, "HAS_INTERMEDIATE_OUTPUT", False))
        self.not_idempotent = bool(getattr(cls, "NOT_IDEMPOTENT", False))
        self.is_async = inspect.iscoroutinefunction(getattr(cls, self._function))
        if not callable(getattr(cls, "INPUT_TYPES", None)):
            raise self._error("INPUT_TYPES", "is missing; define it as a classmethod that returns a dict")
        self._wants_unique_id: bool | None = None

    def _error(self, attribute: str, problem: str) -> NodeDefinitionError:
        where = f"{self.cls.__module__}.{self.cls.__qualname__}.{attribute}"
        return NodeDefinitionError(f"node {self.name}: {where} {problem}")

    def _read_function(self) -> str:
        function = getattr(self.cls, "FUNCTION", None)
        if not isinstance(function, str):
            raise self._error("FUNCTION", "is missing; set it to the name of the method that does the work")
        if not callable(getattr(self.cls, function, None)):
            raise self._error("FUNCTION", f"is {function!r}, but the class has no method of that name")
        return function

    def _read_tuple(self, attribute: str) -> tuple[Any, ...]:
        value = getattr(self.cls, attribute, None)
        if isinstance(value, str):
            return (value,)  # `("IMAGE")`, with the comma forgotten
        if not isinstance(value, tuple | list):
            raise self._error(attribute, "is missing; set it to a tuple of types, `()` if there are none")
        return tuple(value)

    def _read_output_is_list(self) -> tuple[bool, ...]:
        flags = getattr(self.cls, "OUTPUT_IS_LIST", None)
        if flags is None:
            return (False,) * len(self.output_types)
        if isinstance(flags, bool):
            return (flags,) * len(self.output_types)
        return tuple(bool(flag) for flag in flags)

    @property
    def wants_unique_id(self) -> bool:
        if self._wants_unique_id is None:
            self._wants_unique_id = "UNIQUE_ID" in _hidden(self.input_types()).values()
        return self._wants_unique_id

    def input_types(self) -> InputTypes:
        """As the author gives it, dict subclasses included. Raises NodeDefinitionError when that fails."""
        try:
            types = self.cls.INPUT_TYPES()  # type: ignore[attr-defined]
        except BaseException as error:
            if is_ours(error):
                raise
            problem = f"raised {describe(error)}; it must be a classmethod that returns a dict"
            raise self._error("INPUT_TYPES", problem) from error
        if not isinstance(types, dict):
            raise self._error("INPUT_TYPES", f"returned {type(types).__name__}; it must return a dict")
        return types

    def live_inputs(self, values: Mapping[str, Any], types: InputTypes | None = None) -> LiveInputs:
        types = self.input_types() if types is None else types
        specs: dict[str, InputSpec] = {}
        for group in ("required", "optional"):
            inputs = _group(types, group)
            names = list(inputs)
            # some packs have a dict that says yes to names that it does not list: any number of inputs
            names += [name for name in values if name not in specs and name not in names and name in inputs]
            for name in names:
                if name not in specs:
                    specs[name] = _spec(name, inputs[name], group == "required")
        hidden = _hidden(types)
        offered = _group(types, "hidden")
        for name in values:
            # and some hide inputs from the client's form, which prompts give all the same
            if name not in specs and name in offered and hidden.get(name) not in _KNOWN_HIDDEN:
                specs[name] = _spec(name, offered[name], required=False)
        return LiveInputs(specs, hidden)

    def info(self, types: InputTypes | None = None) -> dict[str, Any]:
        cls: Any = self.cls
        types = self.input_types() if types is None else types
        groups: InputTypes = {"required": {}}
        groups |= {group: dict(inputs or {}) for group, inputs in types.items()}
        tooltips = [str(text or "") for text in getattr(cls, "OUTPUT_TOOLTIPS", None) or ()]
        tooltips += [""] * (len(self.output_types) - len(tooltips))
        names = getattr(cls, "RETURN_NAMES", None)
        record = NodeInfoV1(
            input=groups,
            input_order={group: list(inputs) for group, inputs in groups.items()},
            is_input_list=self.input_is_list,
            output=list(self.output_types),
            output_is_list=list(self.output_is_list),
            output_name=list(self.output_types) if names is None else list(self._read_tuple("RETURN_NAMES")),
            output_tooltips=tooltips,
            output_matchtypes=None,
            name=self.name,
            display_name=self.display_name,
            description=getattr(cls, "DESCRIPTION", ""),
            python_module=self.python_module,
            category=getattr(cls, "CATEGORY", "sd"),
            output_node=self.is_output,
            deprecated=bool(getattr(cls, "DEPRECATED", False)),
            experimental=bool(getattr(cls, "EXPERIMENTAL", False)),
            dev_only=bool(getattr(cls, "DEV_ONLY", False)),
            api_node=bool(getattr(cls, "API_NODE", False)),
            price_badge=None,
            search_aliases=list(getattr(cls, "SEARCH_ALIASES", None) or ()),
            essentials_category=getattr(cls, "ESSENTIALS_CATEGORY", None),
            has_intermediate_output=self.has_intermediate_output,
        )
        return record.as_dict()

    def has(self, method: Method) -> bool:
        return method == "execute" or hasattr(self.cls, _METHODS[method])

    def validated_names(self) -> tuple[frozenset[str], bool]:
        if not self.has("validate"):
            return frozenset(), False
        return argument_names(self._method(None, "validate"))

    def create(self) -> Any:
        return self.cls()

    def _method(self, obj: Any, method: Method) -> Callable[..., Any]:
        if method in ("execute", "check_lazy_status"):
            return getattr(obj, self._function if method == "execute" else _METHODS[method])
        name = _METHODS[method]
        plain = inspect.getattr_static(self.cls, name)
        if inspect.isfunction(plain) and self._takes_self(plain):
            return getattr(obj if isinstance(obj, self.cls) else self.create(), name)
        return getattr(self.cls, name)

    def _takes_self(self, function: Callable[..., Any]) -> bool:
        """Whether a function without @classmethod wants the object: its first argument is no input."""
        first = next(iter(inspect.signature(function).parameters.values()), None)
        if first is None or first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
            return False
        inputs = self.input_types().values()
        return first.name != "input_types" and not any(first.name in (group or {}) for group in inputs)

    def call(
        self, obj: Any, method: Method, values: Mapping[str, Any], live: LiveInputs, hidden: Mapping[str, Any]
    ) -> Any:
        function = self._method(obj, method)
        arguments = dict(values)
        for name, kind in live.hidden.items():
            if kind in _KNOWN_HIDDEN or kind in hidden:
                value = hidden.get(kind)
                arguments[name] = [value] if self.input_is_list else value
        if method == "validate":
            names, takes_any = argument_names(function)
            if not takes_any:
                arguments = {name: value for name, value in arguments.items() if name in names}
        return function(**arguments)

    def result(self, returned: Any) -> NodeResult:
        return read_result(self.name, returned)


def _group(types: InputTypes, group: str) -> Mapping[str, Any]:
    """The inputs of a group; an empty dict may say yes to any name all the same."""
    inputs = types.get(group)
    return {} if inputs is None else inputs


def _spec(name: str, written: Any, required: bool) -> InputSpec:
    parts = written if isinstance(written, tuple | list) and written else (written,)
    io_type = list(parts[0]) if isinstance(parts[0], tuple | list) else parts[0]
    options = parts[1] if len(parts) > 1 and isinstance(parts[1], Mapping) else {}
    return InputSpec(name, io_type, required, options)


def _hidden(types: InputTypes) -> dict[str, str]:
    """What is asked for under each name; inputs that are only hidden from view have a list of choices, perhaps."""
    hidden = types.get("hidden") or {}
    kinds = {
        name: kind[0] if isinstance(kind, tuple | list) and kind else kind for name, kind in hidden.items()
    }
    return {name: kind for name, kind in kinds.items() if isinstance(kind, str)}
