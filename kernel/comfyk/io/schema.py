"""What a typed node says of itself: `Schema`, hidden inputs, price badges, the `object_info` record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, TypedDict

from comfyk.io.base import Input, Output, input_dict
from comfyk.io.dynamic import DynamicInput, MatchType


class Hidden(StrEnum):
    """What a node can ask the server for, beside its inputs. The value is the name on the wire."""

    unique_id = "UNIQUE_ID"
    """The node's id in the prompt."""
    prompt = "PROMPT"
    """The prompt as the client sent it."""
    extra_pnginfo = "EXTRA_PNGINFO"
    """What the client wants stored in the files, such as the workflow: `{key: JSON value}`."""
    dynprompt = "DYNPROMPT"
    """The prompt as it stands, with the nodes that came to be by expansion."""
    auth_token_comfy_org = "AUTH_TOKEN_COMFY_ORG"  # noqa: S105 (a name, not a secret)
    api_key_comfy_org = "API_KEY_COMFY_ORG"
    comfy_usage_source = "COMFY_USAGE_SOURCE"
    """Which kind of client sent the prompt."""


class V3Data(TypedDict, total=False):
    """What one call of a typed node brings besides its inputs; kept for packs that name it."""

    hidden_inputs: dict[str, Any]
    dynamic_paths: dict[str, Any]
    dynamic_paths_default_value: dict[str, Any]
    create_dynamic_tuple: bool


class HiddenHolder:
    """The hidden values of one call, as `cls.hidden`. What the node did not ask for is None."""

    def __init__(
        self,
        unique_id: str | None = None,
        prompt: Any = None,
        extra_pnginfo: Any = None,
        dynprompt: Any = None,
        auth_token_comfy_org: str | None = None,
        api_key_comfy_org: str | None = None,
        comfy_usage_source: str | None = None,
        **_others: Any,
    ):
        self.unique_id = unique_id
        self.prompt = prompt
        self.extra_pnginfo = extra_pnginfo
        self.dynprompt = dynprompt
        self.auth_token_comfy_org = auth_token_comfy_org
        self.api_key_comfy_org = api_key_comfy_org
        self.comfy_usage_source = comfy_usage_source

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None

    @classmethod
    def from_dict(cls, d: Mapping[Any, Any] | None) -> HiddenHolder:
        """From `{"UNIQUE_ID": ..., "PROMPT": ...}`; members of `Hidden` serve as keys too."""
        return cls(**{hidden.name: (d or {}).get(hidden.value) for hidden in Hidden})

    @classmethod
    def from_v3_data(cls, v3_data: V3Data | None) -> HiddenHolder:
        return cls.from_dict(v3_data.get("hidden_inputs") if v3_data else None)


@dataclass
class NodeInfoV1:
    """An `object_info` entry; the order of the fields is the order on the wire."""

    input: dict[str, Any] | None = None
    input_order: dict[str, list[str]] | None = None
    is_input_list: bool | None = None
    output: list[Any] | None = None
    output_is_list: list[bool] | None = None
    output_name: list[Any] | None = None
    output_tooltips: list[str] | None = None
    output_matchtypes: list[str | None] | None = None
    name: str | None = None
    display_name: str | None = None
    description: str | None = None
    python_module: Any = None
    category: str | None = None
    output_node: bool | None = None
    deprecated: bool | None = None
    experimental: bool | None = None
    dev_only: bool | None = None
    api_node: bool | None = None
    price_badge: dict[str, Any] | None = None
    search_aliases: list[str] | None = None
    essentials_category: str | None = None
    has_intermediate_output: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """The entry, sharing its values with this record.

        An `essentials_category` of none is left out: ComfyUI's API has it as a text.
        """
        entry = {one.name: getattr(self, one.name) for one in fields(self)}
        if self.essentials_category is None:
            del entry["essentials_category"]
        return entry


@dataclass
class PriceBadgeDepends:
    """What a price is computed from: ids of widgets, inputs and input groups."""

    widgets: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    input_groups: list[str] = field(default_factory=list)

    def validate(self) -> None:
        for name in ("widgets", "inputs", "input_groups"):
            ids = getattr(self, name)
            if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
                raise ValueError(f"PriceBadgeDepends.{name} must be a list of strings, not {ids!r}")

    def as_dict(self, schema_inputs: list[Input]) -> dict[str, Any]:
        """For the wire, each widget with its type. Raises ValueError when the schema has no such widget."""
        types: dict[str, str] = {}
        for one in schema_inputs:
            types[one.id] = one.get_io_type()
            types |= {f"{one.id}.{inner.id}": inner.get_io_type() for inner in one.get_all()[1:]}
        for widget in self.widgets:
            if widget not in types:
                raise ValueError(f"the price badge depends on {widget!r}; the inputs are {', '.join(types)}")
        return {
            "widgets": [{"name": widget, "type": types[widget]} for widget in self.widgets],
            "inputs": self.inputs,
            "input_groups": self.input_groups,
        }


@dataclass
class PriceBadge:
    """A price that the client works out, from an expression in JSONata."""

    expr: str
    depends_on: PriceBadgeDepends = field(default_factory=PriceBadgeDepends)
    engine: str = "jsonata"

    def validate(self) -> None:
        if self.engine != "jsonata":
            raise ValueError(f"PriceBadge.engine must be 'jsonata', not {self.engine!r}")
        if not isinstance(self.expr, str) or not self.expr.strip():
            raise ValueError("PriceBadge.expr must be an expression, not an empty string")
        self.depends_on.validate()

    def as_dict(self, schema_inputs: list[Input]) -> dict[str, Any]:
        return {
            "engine": self.engine,
            "depends_on": self.depends_on.as_dict(schema_inputs),
            "expr": self.expr,
        }


@dataclass
class Schema:
    """What a typed node is: its name, its inputs and outputs, and how the server treats it."""

    node_id: str
    """Unique among all nodes; a pack should put its own name in front."""
    display_name: str | None = None
    category: str = "sd"
    """Where it stands in the menu: `image/upscaling`."""
    inputs: list[Input] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    hidden: list[Hidden] = field(default_factory=list)
    description: str = ""
    search_aliases: list[str] = field(default_factory=list)
    is_input_list: bool = False
    """The node gets every input as a list, all items in one call."""
    is_output_node: bool = False
    """What such a node needs is always run. It gets PROMPT and EXTRA_PNGINFO without asking."""
    is_deprecated: bool = False
    is_experimental: bool = False
    is_dev_only: bool = False
    is_api_node: bool = False
    """It calls a paid service, and gets the credentials for it without asking."""
    price_badge: PriceBadge | None = None
    not_idempotent: bool = False
    """Two such nodes with equal inputs are both run; neither takes the other's result."""
    enable_expand: bool = False
    """It may return a subgraph."""
    accept_all_inputs: bool = False
    """It gets every input of the prompt, whether or not it is in the schema."""
    essentials_category: str | None = None
    has_intermediate_output: bool = False
    """Its `ui` results are kept and shown again as those of output nodes; it is not run for its own sake."""
    static: bool | None = None
    """Whether `define_schema` always gives the same. None: see `is_static`. comfyk's own."""
    v1_form: bool = False
    """`object_info` has the inputs as those of a class with `INPUT_TYPES`, for clients that know the node as one:
    combos are `[[options], {...}]`, a text of one line does not say so, and an output node gets only the hidden
    inputs that it asks for. comfyk's own."""

    @property
    def is_static(self) -> bool:
        """Whether this schema may be kept, instead of calling `define_schema` each time somebody looks.

        What `static` says; otherwise it may if no choice in it could have been read from outside: a combo's
        options are a function (which is asked each time), a tuple or an enum. A list may be the files of a
        folder as they were just now, so such a schema is defined anew.
        """
        if self.static is not None:
            return self.static
        return all(one.is_constant for one in self.inputs)

    @property
    def live_inputs(self) -> list[Input]:
        """The inputs with options that are read each time."""
        return [one for one in self.inputs if one.is_live]

    def validate(self) -> None:
        """Raise ValueError when ids repeat or something was declared in a way that cannot work."""
        inputs = [one for one in self.inputs if not isinstance(one, DynamicInput)]
        problems = []
        for what, sockets in (("input", inputs), ("output", self.outputs)):
            repeated = [str(id) for id, count in Counter(one.id for one in sockets).items() if count > 1]
            if repeated:
                problems.append(f"{self.node_id}: several {what}s have the id {', '.join(repeated)}")
        if problems:
            raise ValueError("\n".join(problems))
        for one in (*self.inputs, *self.outputs):
            one.validate()
        if self.price_badge is not None:
            self.price_badge.validate()

    def finalize(self) -> None:
        """Fill in what follows from the rest: hidden inputs, and ids of outputs."""
        self.inputs = self.inputs or []
        self.outputs = self.outputs or []
        # a list that the author shares between nodes must not grow here
        self.hidden = list(self.hidden or [])
        implied: list[Hidden] = []
        if self.is_api_node:
            implied += [Hidden.auth_token_comfy_org, Hidden.api_key_comfy_org, Hidden.comfy_usage_source]
        if self.is_output_node and not self.v1_form:
            implied += [Hidden.prompt, Hidden.extra_pnginfo]
        self.hidden += [one for one in implied if one not in self.hidden]
        for i, output in enumerate(self.outputs):
            if output.id is None:
                output.id = f"_{i}_{output.io_type}_"

    def input_spec(self, one: Input) -> tuple[Any, dict[str, Any]] | tuple[Any]:
        """`(type, options)` of one input, as this schema puts it on the wire; in V1 form `(type,)` without options."""
        io_type, options = one.spec()
        if not self.v1_form:
            return io_type, options
        for flag in ("multiline", "multiselect"):
            if options.get(flag) is False:
                del options[flag]
        if "options" in options:
            io_type = options.pop("options")
        return (io_type, options) if options else (io_type,)

    def input_types(self) -> dict[str, dict[str, Any]]:
        """`{"required": {id: (type, options)}, "optional": {...}, "hidden": {...}}`, options read now."""
        types = input_dict([])
        for one in self.inputs:
            types.setdefault("optional" if one.optional else "required", {})[one.id] = self.input_spec(one)
        if self.hidden:
            types["hidden"] = {one.name: one.value if self.v1_form else (one.value,) for one in self.hidden}
        return types

    @property
    def output_names(self) -> list[str]:
        return [one.display_name or one.io_type for one in self.outputs]

    def get_v1_info(self, cls: type, types: dict[str, Any] | None = None) -> NodeInfoV1:
        """The `object_info` record. `types` spares a call of `input_types`."""
        types = self.input_types() if types is None else types
        matched = [
            one.template.template_id if isinstance(one, MatchType.Output) else None for one in self.outputs
        ]
        return NodeInfoV1(
            input=types,
            input_order={group: list(inputs) for group, inputs in types.items()},
            is_input_list=self.is_input_list,
            output=[one.io_type for one in self.outputs],
            output_is_list=[one.is_output_list for one in self.outputs],
            output_name=list(self.output_names),
            output_tooltips=[one.tooltip or "" for one in self.outputs],
            output_matchtypes=matched if any(matched) else None,
            name=self.node_id,
            display_name=self.display_name or self.node_id,
            description=self.description,
            python_module=getattr(cls, "RELATIVE_PYTHON_MODULE", None) or "nodes",
            category=self.category,
            output_node=self.is_output_node,
            deprecated=self.is_deprecated,
            experimental=self.is_experimental,
            dev_only=self.is_dev_only,
            api_node=self.is_api_node,
            price_badge=self.price_badge.as_dict(self.inputs) if self.price_badge is not None else None,
            search_aliases=list(self.search_aliases or []),
            essentials_category=self.essentials_category,
            has_intermediate_output=self.has_intermediate_output,
        )
