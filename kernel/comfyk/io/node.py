"""The base class of typed nodes, what their `execute` returns, and how a pack presents them."""

from __future__ import annotations

import inspect
import types as pytypes
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NotRequired, TypedDict

from comfyk.io.schema import HiddenHolder, Schema


class NodeDefinitionError(TypeError):
    """A node class was written in a way that cannot work; the message says where and what to do."""


class ExecutionBlocker:
    """Given out instead of a value: what needs it is not run. `message` says why (None: silently)."""

    def __init__(self, message: str | None = None):
        self.message = message


class NodeOutput:
    """What a node gives: one value per output, and beside them

    - `ui`: what the client shows, a dict of lists or a `comfyk.ui.UIOutput`;
    - `expand`: a subgraph to run in the node's place (the schema needs `enable_expand`);
    - `block_execution`: why nothing behind this node is to run.
    """

    def __init__(
        self,
        *args: Any,
        ui: Any = None,
        expand: dict[str, Any] | None = None,
        block_execution: str | None = None,
    ):
        self.args = args
        self.ui = ui
        self.expand = expand
        self.block_execution = block_execution
        self.blocked = block_execution is not None

    @property
    def result(self) -> tuple[Any, ...] | None:
        """The values, or None when there are none."""
        return self.args or None

    def __getitem__(self, index: int) -> Any:
        return self.args[index]

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> NodeOutput:
        """From the dict that a V1 node returns: `{"result", "ui", "expand"}`, each of them optional."""
        result = data.get("result")
        if isinstance(result, ExecutionBlocker):
            output = cls.from_blocker(result)
            output.ui, output.expand = data.get("ui"), data.get("expand")
            return output
        return cls(*(result or ()), ui=data.get("ui"), expand=data.get("expand"))

    @classmethod
    def from_blocker(cls, blocker: ExecutionBlocker) -> NodeOutput:
        output = cls(block_execution=blocker.message)
        output.blocked = True
        return output

    @classmethod
    def of(cls, returned: Any, node: str) -> NodeOutput:
        """From what `execute` may return. Raises TypeError, which names the node, for anything else."""
        if isinstance(returned, NodeOutput):
            return returned
        if returned is None:
            return cls()
        if isinstance(returned, tuple | list):
            return cls(*returned)
        if isinstance(returned, ExecutionBlocker):
            return cls.from_blocker(returned)
        if isinstance(returned, dict) and (not returned or returned.keys() & {"result", "ui", "expand"}):
            result = returned.get("result")
            if result is None or isinstance(result, tuple | list | ExecutionBlocker):
                return cls.from_dict(returned)
            returned = result
        raise TypeError(
            f"node {node} returned {type(returned).__name__}; return a tuple with one value per output, "
            "`(value,)` if there is only one, or a NodeOutput"
        )


class _SchemaAttribute:
    """A class attribute that V1 nodes write down and typed nodes have from their schema."""

    def __init__(self, read: Callable[[Schema], Any]):
        self.read = read

    def __get__(self, obj: object, owner: type[ComfyNode]) -> Any:
        return self.read(owner.GET_SCHEMA())


class _FunctionName:
    def __get__(self, obj: object, owner: type[ComfyNode]) -> str:
        return (
            "EXECUTE_NORMALIZED_ASYNC" if inspect.iscoroutinefunction(owner.execute) else "EXECUTE_NORMALIZED"
        )


class ComfyNode:
    """A typed node. Write `define_schema` and `execute` as classmethods; the others as needed.

    Any of them may be a coroutine function, except `define_schema`. Import heavy packages inside `execute`,
    so that registering the node costs nothing.
    """

    RELATIVE_PYTHON_MODULE: ClassVar[str | None] = None
    SCHEMA: ClassVar[Schema | None] = None
    hidden: ClassVar[HiddenHolder] = HiddenHolder()
    """The hidden values of the call under way."""

    FUNCTION = _FunctionName()
    DESCRIPTION = _SchemaAttribute(lambda schema: schema.description)
    CATEGORY = _SchemaAttribute(lambda schema: schema.category)
    EXPERIMENTAL = _SchemaAttribute(lambda schema: schema.is_experimental)
    DEPRECATED = _SchemaAttribute(lambda schema: schema.is_deprecated)
    DEV_ONLY = _SchemaAttribute(lambda schema: schema.is_dev_only)
    API_NODE = _SchemaAttribute(lambda schema: schema.is_api_node)
    OUTPUT_NODE = _SchemaAttribute(lambda schema: schema.is_output_node)
    HAS_INTERMEDIATE_OUTPUT = _SchemaAttribute(lambda schema: schema.has_intermediate_output)
    INPUT_IS_LIST = _SchemaAttribute(lambda schema: schema.is_input_list)
    NOT_IDEMPOTENT = _SchemaAttribute(lambda schema: schema.not_idempotent)
    ACCEPT_ALL_INPUTS = _SchemaAttribute(lambda schema: schema.accept_all_inputs)
    RETURN_TYPES = _SchemaAttribute(lambda schema: tuple(one.io_type for one in schema.outputs))
    RETURN_NAMES = _SchemaAttribute(lambda schema: tuple(schema.output_names))
    OUTPUT_IS_LIST = _SchemaAttribute(lambda schema: tuple(one.is_output_list for one in schema.outputs))
    OUTPUT_TOOLTIPS = _SchemaAttribute(lambda schema: tuple(one.tooltip or None for one in schema.outputs))
    SEARCH_ALIASES = _SchemaAttribute(lambda schema: list(schema.search_aliases or []))
    ESSENTIALS_CATEGORY = _SchemaAttribute(lambda schema: schema.essentials_category)

    @classmethod
    def define_schema(cls) -> Schema:
        """What the node is. See `Schema.is_static` for how often this is called."""
        raise NotImplementedError

    @classmethod
    def execute(cls, *args: Any, **kwargs: Any) -> Any:
        """Do the work. Returns a NodeOutput, a tuple of values, an ExecutionBlocker or None."""
        raise NotImplementedError

    @classmethod
    def validate_inputs(cls, *args: Any, **kwargs: Any) -> Any:
        """True if these constant inputs can be run, or a sentence that says why not."""
        raise NotImplementedError

    @classmethod
    def fingerprint_inputs(cls, *args: Any, **kwargs: Any) -> Any:
        """A value that stays the same as long as the cached result may be used."""
        raise NotImplementedError

    @classmethod
    def check_lazy_status(cls, *args: Any, **kwargs: Any) -> Any:
        """The names of the lazy inputs that are needed, given those that are there (None: not yet)."""
        return [name for name, value in kwargs.items() if value is None]

    @classmethod
    def overrides(cls, method: str) -> bool:
        """Whether a class below ComfyNode defines this method."""
        return getattr(cls, method).__func__ is not getattr(ComfyNode, method).__func__

    @classmethod
    def VALIDATE_CLASS(cls) -> None:
        """Raise NodeDefinitionError when a method is missing or is no classmethod."""
        for method in ("define_schema", "execute"):
            found = inspect.getattr_static(cls, method)
            if not isinstance(found, classmethod):
                raise NodeDefinitionError(
                    f"{cls.__name__}.{method} must be a classmethod; put @classmethod above it"
                )
            if not cls.overrides(method):
                raise NodeDefinitionError(f"{cls.__name__} has no {method}; define it as a classmethod")

    @classmethod
    def FINALIZE_SCHEMA(cls) -> Schema:
        """The schema, defined anew."""
        schema = cls.define_schema()
        if not isinstance(schema, Schema):
            raise NodeDefinitionError(
                f"{cls.__name__}.define_schema returned {type(schema).__name__}; return an io.Schema"
            )
        schema.finalize()
        return schema

    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        """The schema as it was when it was first asked for, checked."""
        schema = vars(cls).get("SCHEMA")
        if schema is None:
            cls.VALIDATE_CLASS()
            schema = cls.FINALIZE_SCHEMA()
            schema.validate()
            cls.SCHEMA = schema
        return schema

    @classmethod
    def current_schema(cls) -> Schema:
        """The schema as it is now: the first one if that is static, otherwise defined anew."""
        schema = cls.GET_SCHEMA()
        return schema if schema.is_static else cls.FINALIZE_SCHEMA()

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:
        return cls.current_schema().input_types()

    @classmethod
    def GET_NODE_INFO_V1(cls) -> dict[str, Any]:
        """The `object_info` entry under the schema's own name."""
        return cls.current_schema().get_v1_info(cls).as_dict()

    @classmethod
    def EXECUTE_NORMALIZED(cls, *args: Any, **kwargs: Any) -> NodeOutput:
        """`execute` for callers that take the function's name from `FUNCTION`."""
        return NodeOutput.of(cls.execute(*args, **kwargs), cls.__name__)

    @classmethod
    async def EXECUTE_NORMALIZED_ASYNC(cls, *args: Any, **kwargs: Any) -> NodeOutput:
        return NodeOutput.of(await cls.execute(*args, **kwargs), cls.__name__)


def with_hidden(cls: type[ComfyNode], hidden: HiddenHolder) -> type[ComfyNode]:
    """A subclass for one call, whose `hidden` is this.

    Not a context variable: a node may read `cls.hidden` in a thread that it started, or in a callback that
    runs while another node does, and must find its own values there.
    """
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    body = names | {"hidden": hidden, "SCHEMA": cls.GET_SCHEMA()}
    return pytypes.new_class(cls.__name__, (cls,), exec_body=lambda namespace: namespace.update(body))


class InputMapOldId(TypedDict):
    """The new node's input `new_id` takes what the old one had as `old_id`."""

    new_id: str
    old_id: str


class InputMapSetValue(TypedDict):
    """The new node's input `new_id` gets this value."""

    new_id: str
    set_value: Any


class InputMapEntry(TypedDict):
    """Either of the two."""

    new_id: str
    old_id: NotRequired[str]
    set_value: NotRequired[Any]


class OutputMap(TypedDict):
    """Output `old_idx` of the old node is output `new_idx` of the new one."""

    new_idx: int
    old_idx: int


InputMap = InputMapOldId | InputMapSetValue | InputMapEntry


class NodeReplace:
    """Says that the node `old_node_id` is now `new_node_id`, and what became of its inputs and outputs.

    `old_widget_ids` names the old node's widgets in order: workflow files store their values by position.
    """

    def __init__(
        self,
        new_node_id: str,
        old_node_id: str,
        old_widget_ids: list[str] | None = None,
        input_mapping: list[InputMap] | None = None,
        output_mapping: list[OutputMap] | None = None,
    ):
        self.new_node_id = new_node_id
        self.old_node_id = old_node_id
        self.old_widget_ids = old_widget_ids
        self.input_mapping = input_mapping
        self.output_mapping = output_mapping

    def as_dict(self) -> dict[str, Any]:
        return {
            "new_node_id": self.new_node_id,
            "old_node_id": self.old_node_id,
            "old_widget_ids": self.old_widget_ids,
            "input_mapping": list(self.input_mapping) if self.input_mapping else None,
            "output_mapping": list(self.output_mapping) if self.output_mapping else None,
        }


class ComfyExtension(ABC):
    """What a pack's `comfy_entrypoint()` returns."""

    async def on_load(self) -> None:  # noqa: B027 (most packs have nothing to do here)
        """Called once, before the nodes are asked for."""

    @abstractmethod
    async def get_node_list(self) -> list[type[ComfyNode]]:
        """The nodes that the pack brings."""
