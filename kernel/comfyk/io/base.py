"""What every io type is made of: the type itself, its `Input` and its `Output`.

An io type is a class with an `io_type` (the name on the wire, such as `IMAGE`), an `Input` class and, unless
it can only be set by a person, an `Output` class. `comfytype` names a class, `Custom` makes one on the spot:

    Sound = Custom("SOUND")
    Sound.Input("sound", tooltip="what to play")
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import Enum, StrEnum
from typing import Any, ClassVar, TypeVar, cast


class FolderType(StrEnum):
    """Where a file lies, as `/view` and the results of a node name it."""

    input = "input"
    output = "output"
    temp = "temp"


class UploadType(StrEnum):
    """The upload button that a combo of files shows; the value is the option's key on the wire."""

    image = "image_upload"
    audio = "audio_upload"
    video = "video_upload"
    model = "file_upload"


class NumberDisplay(StrEnum):
    number = "number"
    slider = "slider"
    gradient_slider = "gradientslider"


class ControlAfterGenerate(StrEnum):
    """What happens to a seed after each run."""

    fixed = "fixed"
    increment = "increment"
    decrement = "decrement"
    randomize = "randomize"


def given(**options: Any) -> dict[str, Any]:
    """The options that somebody gave: those that are not None, in order."""
    return {key: value for key, value in options.items() if value is not None}


def plain(value: Any) -> Any:
    """The value behind an enum member; anything else as it is."""
    return value.value if isinstance(value, Enum) else value


class RemoteOptions:
    """Lets a combo fetch its options from an HTTP route. `timeout` and `refresh` are in milliseconds."""

    def __init__(
        self,
        route: str,
        refresh_button: bool,
        control_after_refresh: str = "first",
        timeout: int | None = None,
        max_retries: int | None = None,
        refresh: int | None = None,
    ):
        self.route = route
        self.refresh_button = refresh_button
        self.control_after_refresh = control_after_refresh
        self.timeout = timeout
        self.max_retries = max_retries
        self.refresh = refresh

    def as_dict(self) -> dict[str, Any]:
        return given(
            route=self.route,
            refresh_button=self.refresh_button,
            control_after_refresh=self.control_after_refresh,
            timeout=self.timeout,
            max_retries=self.max_retries,
            refresh=self.refresh,
        )


class _Socket:
    """An input or an output; `Parent` is the io type that it belongs to."""

    Parent: ClassVar[type[ComfyType]]

    @property
    def io_type(self) -> str:
        return self.Parent.io_type

    @property
    def Type(self) -> Any:
        return self.Parent.Type

    def get_io_type(self) -> str:
        """The type on the wire."""
        return self.io_type

    def validate(self) -> None:
        """Raise ValueError when this was declared in a way that cannot work."""


class Input(_Socket):
    """An input of a node. `extra_dict` adds options of the author's own to those on the wire."""

    def __init__(
        self,
        id: str,
        display_name: str | None = None,
        optional: bool = False,
        tooltip: str | None = None,
        lazy: bool | None = None,
        extra_dict: dict[str, Any] | None = None,
        raw_link: bool | None = None,
        advanced: bool | None = None,
    ):
        self.id = id
        self.display_name = display_name
        self.optional = optional
        self.tooltip = tooltip
        self.lazy = lazy
        self.extra_dict = extra_dict if extra_dict is not None else {}
        self.rawLink = raw_link
        self.advanced = advanced

    def as_dict(self) -> dict[str, Any]:
        """The options on the wire, `optional` among them."""
        return given(
            display_name=self.display_name,
            optional=self.optional,
            tooltip=self.tooltip,
            lazy=self.lazy,
            rawLink=self.rawLink,
            advanced=self.advanced,
        ) | given(**self.extra_dict)

    def get_all(self) -> list[Input]:
        """This input and those that it may grow."""
        return [self]

    def spec(self) -> tuple[str, dict[str, Any]]:
        """The input as a schema holds it: `(type, options)`."""
        options = self.as_dict()
        options.pop("optional", None)
        return self.get_io_type(), options

    @property
    def is_live(self) -> bool:
        """Whether `spec()` may differ from one call to the next, because options are read when asked for."""
        return False

    @property
    def is_constant(self) -> bool:
        """Whether declaring this input again would give the same: nothing in it looks read from outside."""
        return not any(isinstance(value, (list, dict)) for value in self.extra_dict.values())


class WidgetInput(Input):
    """An input that a person can set in the node itself."""

    def __init__(
        self,
        id: str,
        display_name: str | None = None,
        optional: bool = False,
        tooltip: str | None = None,
        lazy: bool | None = None,
        default: Any = None,
        socketless: bool | None = None,
        widget_type: str | None = None,
        force_input: bool | None = None,
        extra_dict: dict[str, Any] | None = None,
        raw_link: bool | None = None,
        advanced: bool | None = None,
    ):
        super().__init__(id, display_name, optional, tooltip, lazy, extra_dict, raw_link, advanced)
        self.default = default
        self.socketless = socketless
        self.widget_type = widget_type
        self.force_input = force_input

    def as_dict(self) -> dict[str, Any]:
        return super().as_dict() | given(
            default=self.default,
            socketless=self.socketless,
            widgetType=self.widget_type,
            forceInput=self.force_input,
        )

    def get_io_type(self) -> str:
        return self.widget_type if self.widget_type is not None else super().get_io_type()


class Output(_Socket):
    """An output of a node."""

    def __init__(
        self,
        id: str | None = None,
        display_name: str | None = None,
        tooltip: str | None = None,
        is_output_list: bool = False,
    ):
        self.id = id
        self.display_name = display_name or id
        self.tooltip = tooltip
        self.is_output_list = is_output_list

    def as_dict(self) -> dict[str, Any]:
        return given(
            display_name=self.display_name or self.id,
            tooltip=self.tooltip,
            is_output_list=self.is_output_list,
        )


_InputBase = Input
_OutputBase = Output


class ComfyType:
    """An io type. `Type` is what its values are in Python, for annotations."""

    Type: Any = Any
    io_type: ClassVar[str]


class _Part:
    """An io type's own `Input` or `Output`, made when somebody first asks: most types are never asked."""

    def __init__(self, base: type[_Socket]):
        self.base = base

    def __get__(self, obj: object, owner: type[ComfyType]) -> Any:
        return _own_part(owner, self.base) if hasattr(owner, "io_type") else self.base


def _own_part(owner: type[ComfyType], base: type[_Socket]) -> type[_Socket]:
    name = base.__name__
    names = {"__module__": owner.__module__, "__qualname__": f"{owner.__qualname__}.{name}", "Parent": owner}
    part = type(name, (base,), names)
    setattr(owner, name, part)
    return part


class ComfyTypeI(ComfyType):
    """An io type with an input only."""

    Input: ClassVar[type[_InputBase]] = cast("type[_InputBase]", _Part(_InputBase))


class ComfyTypeIO(ComfyTypeI):
    """An io type with an input and an output."""

    Output: ClassVar[type[_OutputBase]] = cast("type[_OutputBase]", _Part(_OutputBase))


_T = TypeVar("_T", bound=type)


def comfytype(io_type: str, **_ignored: Any) -> Callable[[_T], _T]:
    """Give a class its name on the wire.

    The class gets an `Input` and an `Output` of its own, so that `Parent` leads back to it. A class that does
    not derive from `ComfyTypeI` or `ComfyTypeIO` becomes a `ComfyTypeIO`.
    """

    def name(cls: _T) -> _T:
        named: Any = cls
        if not issubclass(cls, ComfyType):
            body = {k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__")}
            named = type(cls.__name__, (cls, ComfyTypeIO), body)
        named.io_type = io_type
        for part in ("Input", "Output"):
            base = inspect.getattr_static(named, part, None)
            if not isinstance(base, type) or not issubclass(base, _Socket):
                continue
            if part in vars(named) and "Parent" not in vars(base):
                base.Parent = named
            else:
                _own_part(named, base)
        return named

    return name


def Custom(io_type: str) -> type[ComfyTypeIO]:
    """An io type with this name, for data that only some pack knows."""

    @comfytype(io_type=io_type)
    class CustomType(ComfyTypeIO):
        pass

    return CustomType


def add_to_dict_v1(i: _InputBase, d: dict[str, Any]) -> None:
    """Put an input into a schema dict, under `required` or `optional`."""
    d.setdefault("optional" if i.optional else "required", {})[i.id] = i.spec()


def input_dict(inputs: list[_InputBase]) -> dict[str, dict[str, Any]]:
    """Inputs as a schema dict: `{"required": {id: (type, options)}, "optional": {...}}`."""
    result: dict[str, dict[str, Any]] = {"required": {}}
    for one in inputs:
        add_to_dict_v1(one, result)
    return result
