"""What the kernel needs to know of a node, however its author wrote it.

A node class comes in two shapes: typed (`comfyk.io.ComfyNode`) and V1 (`INPUT_TYPES`, `RETURN_TYPES`,
`FUNCTION`). `NodeDef` is the one face that validation, execution and `object_info` see.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

InputTypes = dict[str, dict[str, Any]]
"""The common schema form: `{"required": {name: (type, options)}, "optional": {...}, "hidden": {...}}`."""

Method = Literal["execute", "check_lazy_status", "fingerprint", "validate"]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of a node, as a prompt names it (`image`, or `group.image0` inside a dynamic input)."""

    name: str
    type: str | list[Any]
    """An io type such as `IMAGE` or `INT`, or the list of a V1 combo's options."""
    required: bool
    options: Mapping[str, Any]

    @property
    def lazy(self) -> bool:
        return bool(self.options.get("lazy"))

    @property
    def raw_link(self) -> bool:
        """The node wants the link `[node_id, slot]` itself, not the value behind it."""
        return bool(self.options.get("rawLink"))

    @property
    def choices(self) -> list[Any] | None:
        """The options of a combo; None for other types, and for a combo whose options the client fetches."""
        if isinstance(self.type, list):
            return self.type
        if self.type == "COMBO":
            options = self.options.get("options")
            return None if options is None and "remote" in self.options else list(options or [])
        if self.type == "COMFY_DYNAMICCOMBO_V3":
            return [option["key"] for option in self.options["options"]]
        return None


@dataclass(slots=True)
class LiveInputs:
    """The inputs that a node has for the values at hand, dynamic ones (autogrow, dynamic combos) expanded."""

    specs: dict[str, InputSpec]
    hidden: dict[str, str] = field(default_factory=dict)
    """Argument name -> what it asks for: PROMPT, DYNPROMPT, EXTRA_PNGINFO, UNIQUE_ID ..."""
    paths: dict[str, str] = field(default_factory=dict)
    """Input name -> dotted path in the nested arguments that the node receives (typed nodes only)."""
    empty_paths: set[str] = field(default_factory=set)
    """Paths that get an empty dict when nothing was given for them."""


@dataclass(slots=True)
class NodeResult:
    """What one call of a node gave, whatever its author returned."""

    values: tuple[Any, ...] | None = None
    """One value per output; None when the node has none to give."""
    ui: dict[str, list[Any]] | None = None
    expand: dict[str, Any] | None = None
    """A subgraph `{node_id: {"class_type", "inputs"}}` to run instead; `values` may link into it."""
    block: str | None = None
    blocked: bool = False
    """True: everything behind the outputs is blocked, with the message `block` (None: silently)."""


class NodeDef(ABC):
    """A registered node class. The attributes are read once, at registration."""

    name: str
    display_name: str
    cls: type
    python_module: str
    output_types: tuple[Any, ...]
    """An io type each; some V1 nodes have the list of a combo's options here."""
    output_is_list: tuple[bool, ...]
    input_is_list: bool
    is_output: bool
    has_intermediate_output: bool
    not_idempotent: bool
    accept_all_inputs: bool
    is_async: bool
    is_static: bool
    """Neither the schema nor `info()` ever changes. Then `input_types()` gives the same dict each time."""
    schema_is_quick: bool = False
    """`input_types()` was seen to take so little time that the event loop may call it."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} of {self.python_module}>"

    @property
    @abstractmethod
    def wants_unique_id(self) -> bool:
        """The node asks for its own id, so its results are not shared with an equal node elsewhere."""

    @abstractmethod
    def input_types(self) -> InputTypes:
        """The schema as it stands now; combos that list files are read anew. Callers must not change it."""

    @abstractmethod
    def live_inputs(self, values: Mapping[str, Any], types: InputTypes | None = None) -> LiveInputs:
        """The inputs for these prompt values. `types` spares a call of `input_types` when the caller has it.

        The result may be shared between calls; it is not to be changed.
        """

    @abstractmethod
    def info(self, types: InputTypes | None = None) -> dict[str, Any]:
        """The `object_info` entry, with its fields in the order that ComfyUI gives them.

        Typed and V1 nodes give the same fields: every field is there (but for an `essentials_category` of none),
        `display_name` is never null, `search_aliases` and `output_tooltips` are lists of texts. An input of a typed
        node is `[type, options]`; one of a V1 node stands as its author wrote it, such as `[type]`, or a hidden one
        as `"PROMPT"`.
        """

    @abstractmethod
    def has(self, method: Method) -> bool:
        """Whether there is such a method (`fingerprint` is IS_CHANGED in V1, `validate` VALIDATE_INPUTS)."""

    @abstractmethod
    def validated_names(self) -> tuple[frozenset[str], bool]:
        """The argument names of the validate method without `cls`, and whether it takes `**kwargs`."""

    @abstractmethod
    def create(self) -> Any:
        """The object that calls are made on; kept for the same node id of later prompts."""

    @abstractmethod
    def call(
        self, obj: Any, method: Method, values: Mapping[str, Any], live: LiveInputs, hidden: Mapping[str, Any]
    ) -> Any:
        """Call a method with flat input `values`; may return an awaitable.

        `hidden` maps what is asked for (`"UNIQUE_ID"`, `"PROMPT"` ...) to its value. `execute` returns what
        `result` understands; the others return what the author wrote. `validate` drops the arguments that the
        method does not take. `obj` may be None for `validate` and `fingerprint`.
        """

    @abstractmethod
    def result(self, returned: Any) -> NodeResult:
        """Read what `execute` returned. Raises TypeError that names the node when it cannot be read."""
