"""Inputs that depend on what a person connects or chooses.

`MultiType` takes one of several types, `MatchType` ties inputs and outputs to the same type, `Autogrow` has
as many inputs as are used, `DynamicCombo` shows other inputs for each choice, and `DynamicSlot` shows them
once it is connected. How they unfold for the values of a prompt is in `comfyk.io.expansion`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from comfyk.io.base import (
    ComfyType,
    ComfyTypeI,
    ComfyTypeIO,
    Input,
    Output,
    WidgetInput,
    comfytype,
    given,
    input_dict,
)
from comfyk.io.types import AnyType

_Input = Input


class DynamicInput(Input):
    """An input that becomes other inputs when a prompt is read."""


class DynamicOutput(Output):
    """An output whose shape depends on the prompt."""


@comfytype(io_type="COMFY_MULTITYPED_V3")
class MultiType(ComfyTypeIO):
    """Takes any of several types; on the wire they are one, joined by commas."""

    class Input(Input):
        """`id` may be a widget input: its widget is shown, and the other `types` can be connected."""

        def __init__(
            self,
            id: str | _Input,
            types: Sequence[type[ComfyType] | ComfyType],
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
            raw_link: bool | None = None,
            advanced: bool | None = None,
        ):
            self.input_override: _Input | None = None
            if isinstance(id, _Input):
                widget = self.input_override = copy.copy(id)
                if isinstance(widget, WidgetInput):
                    widget.widget_type = widget.get_io_type()
                optional = widget.optional or optional
                tooltip = widget.tooltip if widget.tooltip is not None else tooltip
                display_name = widget.display_name if widget.display_name is not None else display_name
                lazy = widget.lazy if widget.lazy is not None else lazy
                id = widget.id
            super().__init__(id, display_name, optional, tooltip, lazy, extra_dict, raw_link, advanced)
            self._types = types

        @property
        def io_types(self) -> list[type[ComfyType]]:
            return [one if isinstance(one, type) else type(one) for one in self._types]

        def get_io_type(self) -> str:
            names = [one.io_type for one in self.io_types]
            if self.input_override is not None:
                names.insert(0, self.input_override.get_io_type())
            return ",".join(dict.fromkeys(names))

        def as_dict(self) -> dict[str, Any]:
            inherited = self.input_override.as_dict() if self.input_override is not None else {}
            return inherited | super().as_dict()

        @property
        def is_live(self) -> bool:
            return self.input_override is not None and self.input_override.is_live

        @property
        def is_constant(self) -> bool:
            inner = self.input_override
            return super().is_constant and (inner is None or inner.is_constant)


@comfytype(io_type="COMFY_MATCHTYPE_V3")
class MatchType(ComfyTypeIO):
    """Sockets with the same template have the same type, whichever of the allowed ones that is."""

    class Template:
        """Raises ValueError when `allowed_types` holds something that is no io type."""

        def __init__(
            self,
            template_id: str,
            allowed_types: type[ComfyType] | ComfyType | Iterable[type[ComfyType] | ComfyType] = AnyType,
        ):
            types = allowed_types if isinstance(allowed_types, Iterable) else [allowed_types]
            self.template_id = template_id
            self.allowed_types = list(types)
            for one in self.allowed_types:
                kind = one if isinstance(one, type) else type(one)
                if not issubclass(kind, ComfyType):
                    raise ValueError(
                        f"template {template_id!r}: {kind.__name__} is no io type; use one such as io.Image"
                    )

        def as_dict(self) -> dict[str, Any]:
            return {
                "template_id": self.template_id,
                "allowed_types": ",".join(one.io_type for one in self.allowed_types),
            }

    class Input(Input):
        def __init__(
            self,
            id: str,
            template: MatchType.Template,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
            raw_link: bool | None = None,
            advanced: bool | None = None,
        ):
            super().__init__(id, display_name, optional, tooltip, lazy, extra_dict, raw_link, advanced)
            self.template = template

        def as_dict(self) -> dict[str, Any]:
            return super().as_dict() | {"template": self.template.as_dict()}

    class Output(Output):
        def __init__(
            self,
            template: MatchType.Template,
            id: str | None = None,
            display_name: str | None = None,
            tooltip: str | None = None,
            is_output_list: bool = False,
        ):
            if not id and not display_name:
                display_name = "MATCHTYPE"
            super().__init__(id, display_name, tooltip, is_output_list)
            self.template = template

        def as_dict(self) -> dict[str, Any]:
            return super().as_dict() | {"template": self.template.as_dict()}


class _AutogrowTemplate:
    """What each input of an autogrow looks like, and what they are called."""

    def __init__(self, input: Input, names: list[str], min: int):
        if isinstance(input, DynamicInput):
            raise ValueError(f"autogrow: the input {input.id!r} is dynamic itself; use a plain one")
        if min < 0:
            raise ValueError(f"autogrow: min must not be negative, not {min}")
        self.input = copy.copy(input)
        if isinstance(self.input, WidgetInput):
            self.input.force_input = True
        self.names = names
        self.min = min

    def get_all(self) -> list[Input]:
        """The inputs that may come to be, by their own names."""
        inputs = []
        for name in self.names:
            one = copy.copy(self.input)
            one.id = name
            inputs.append(one)
        return inputs

    def as_dict(self) -> dict[str, Any]:
        return {"input": input_dict([self.input])}

    def validate(self) -> None:
        self.input.validate()


@comfytype(io_type="COMFY_AUTOGROW_V3")
class Autogrow(ComfyTypeI):
    """One more free input whenever the last is connected; the node gets a dict of those in use."""

    Type = dict[str, Any]
    MAX_NAMES: ClassVar[int] = 100

    class TemplatePrefix(_AutogrowTemplate):
        """Inputs `prefix0`, `prefix1` ... At least `min`, at most `max` (up to 100)."""

        def __init__(self, input: Input, prefix: str, min: int = 1, max: int = 10):
            if not 1 <= max <= Autogrow.MAX_NAMES:
                raise ValueError(f"autogrow {prefix!r}: max must be 1 to {Autogrow.MAX_NAMES}, not {max}")
            super().__init__(input, [f"{prefix}{i}" for i in range(max)], min)
            self.prefix = prefix
            self.max = max

        def as_dict(self) -> dict[str, Any]:
            return super().as_dict() | {"prefix": self.prefix, "min": self.min, "max": self.max}

    class TemplateNames(_AutogrowTemplate):
        """Inputs with these names, the first `min` of them required. A hundred at most."""

        def __init__(self, input: Input, names: list[str], min: int = 1):
            super().__init__(input, list(names[: Autogrow.MAX_NAMES]), min)

        def as_dict(self) -> dict[str, Any]:
            return super().as_dict() | {"names": self.names, "min": self.min}

    class Input(DynamicInput):
        def __init__(
            self,
            id: str,
            template: Autogrow.TemplatePrefix | Autogrow.TemplateNames,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
        ):
            super().__init__(id, display_name, optional, tooltip, lazy, extra_dict)
            self.template = template

        def as_dict(self) -> dict[str, Any]:
            return super().as_dict() | {"template": self.template.as_dict()}

        def get_all(self) -> list[_Input]:
            return [self, *self.template.get_all()]

        def validate(self) -> None:
            self.template.validate()

        @property
        def is_live(self) -> bool:
            return self.template.input.is_live

        @property
        def is_constant(self) -> bool:
            return super().is_constant and self.template.input.is_constant


@comfytype(io_type="COMFY_DYNAMICCOMBO_V3")
class DynamicCombo(ComfyTypeI):
    """A choice that brings its own inputs; the node gets a dict of them and, by its own name, the choice."""

    Type = dict[str, Any]

    class Option:
        def __init__(self, key: str, inputs: list[Input]):
            self.key = key
            self.inputs = inputs

        def as_dict(self) -> dict[str, Any]:
            return {"key": self.key, "inputs": input_dict(self.inputs)}

    class Input(DynamicInput):
        def __init__(
            self,
            id: str,
            options: Sequence[DynamicCombo.Option],
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
        ):
            super().__init__(id, display_name, optional, tooltip, lazy, extra_dict)
            self.options = options

        def _inner(self) -> list[_Input]:
            return [one for option in self.options for one in option.inputs]

        def get_all(self) -> list[_Input]:
            return [self, *self._inner()]

        def as_dict(self) -> dict[str, Any]:
            return super().as_dict() | {"options": [option.as_dict() for option in self.options]}

        def validate(self) -> None:
            for one in self._inner():
                one.validate()

        @property
        def is_live(self) -> bool:
            return any(one.is_live for one in self._inner())

        @property
        def is_constant(self) -> bool:
            listed = isinstance(self.options, list)
            return super().is_constant and not listed and all(one.is_constant for one in self._inner())


@comfytype(io_type="COMFY_DYNAMICSLOT_V3")
class DynamicSlot(ComfyTypeI):
    """A socket that brings other inputs once it is connected. Always optional."""

    Type = dict[str, Any]

    class Input(DynamicInput):
        def __init__(
            self,
            slot: Input,
            inputs: list[Input],
            display_name: str | None = None,
            tooltip: str | None = None,
            lazy: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
        ):
            if isinstance(slot, DynamicInput):
                raise ValueError(f"dynamic slot: {slot.id!r} is dynamic itself; use a plain input")
            slot = self.slot = copy.copy(slot)
            slot.display_name = slot.display_name if slot.display_name is not None else display_name
            slot.tooltip = slot.tooltip if slot.tooltip is not None else tooltip
            slot.lazy = slot.lazy if slot.lazy is not None else lazy
            slot.extra_dict = slot.extra_dict or extra_dict or {}
            super().__init__(slot.id, slot.display_name, True, slot.tooltip, slot.lazy, slot.extra_dict)
            self.inputs = inputs
            self.force_input: bool | None = None
            if isinstance(slot, WidgetInput):
                self.force_input = slot.force_input = True

        def get_all(self) -> list[_Input]:
            return [self.slot, *self.inputs]

        def as_dict(self) -> dict[str, Any]:
            return super().as_dict() | given(
                slotType=self.slot.get_io_type(),
                inputs=input_dict(self.inputs),
                forceInput=self.force_input,
            )

        def validate(self) -> None:
            for one in self.get_all():
                one.validate()

        @property
        def is_live(self) -> bool:
            return any(one.is_live for one in self.inputs)

        @property
        def is_constant(self) -> bool:
            return super().is_constant and all(one.is_constant for one in self.inputs)
