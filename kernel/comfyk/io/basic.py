"""The io types of plain values: booleans, numbers, text and choices."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

from comfyk.io.base import (
    ComfyTypeI,
    ComfyTypeIO,
    ControlAfterGenerate,
    FolderType,
    NumberDisplay,
    Output,
    RemoteOptions,
    UploadType,
    WidgetInput,
    comfytype,
    given,
    plain,
)

Options = Iterable[Any] | type[Enum] | Callable[[], Iterable[Any]]
"""What a combo offers: a sequence, an enum, or a function that is asked anew each time somebody looks."""


@comfytype(io_type="BOOLEAN")
class Boolean(ComfyTypeIO):
    Type = bool

    class Input(WidgetInput):
        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            default: bool | None = None,
            label_on: str | None = None,
            label_off: str | None = None,
            socketless: bool | None = None,
            force_input: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
            raw_link: bool | None = None,
            advanced: bool | None = None,
        ):
            super().__init__(
                id, display_name, optional, tooltip, lazy, default, socketless, None, force_input,
                extra_dict, raw_link, advanced,
            )  # fmt: skip
            self.label_on = label_on
            self.label_off = label_off

        def as_dict(self) -> dict[str, Any]:
            return super().as_dict() | given(label_on=self.label_on, label_off=self.label_off)


@comfytype(io_type="INT")
class Int(ComfyTypeIO):
    Type = int

    class Input(WidgetInput):
        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            default: int | None = None,
            min: int | None = None,
            max: int | None = None,
            step: int | None = None,
            control_after_generate: bool | ControlAfterGenerate | None = None,
            display_mode: NumberDisplay | None = None,
            socketless: bool | None = None,
            force_input: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
            raw_link: bool | None = None,
            advanced: bool | None = None,
        ):
            super().__init__(
                id, display_name, optional, tooltip, lazy, default, socketless, None, force_input,
                extra_dict, raw_link, advanced,
            )  # fmt: skip
            self.min = min
            self.max = max
            self.step = step
            self.control_after_generate = control_after_generate
            self.display_mode = display_mode

        def as_dict(self) -> dict[str, Any]:
            return super().as_dict() | given(
                min=self.min,
                max=self.max,
                step=self.step,
                control_after_generate=plain(self.control_after_generate),
                display=plain(self.display_mode),
            )


@comfytype(io_type="FLOAT")
class Float(ComfyTypeIO):
    Type = float

    class Input(WidgetInput):
        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            default: float | None = None,
            min: float | None = None,
            max: float | None = None,
            step: float | None = None,
            round: float | None = None,
            display_mode: NumberDisplay | None = None,
            gradient_stops: list[dict[str, Any]] | None = None,
            socketless: bool | None = None,
            force_input: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
            raw_link: bool | None = None,
            advanced: bool | None = None,
        ):
            super().__init__(
                id, display_name, optional, tooltip, lazy, default, socketless, None, force_input,
                extra_dict, raw_link, advanced,
            )  # fmt: skip
            self.min = min
            self.max = max
            self.step = step
            self.round = round
            self.display_mode = display_mode
            self.gradient_stops = gradient_stops

        def as_dict(self) -> dict[str, Any]:
            return super().as_dict() | given(
                min=self.min,
                max=self.max,
                step=self.step,
                round=self.round,
                display=plain(self.display_mode),
                gradient_stops=self.gradient_stops,
            )


@comfytype(io_type="STRING")
class String(ComfyTypeIO):
    Type = str

    class Input(WidgetInput):
        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            multiline: bool = False,
            placeholder: str | None = None,
            default: str | None = None,
            dynamic_prompts: bool | None = None,
            socketless: bool | None = None,
            force_input: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
            raw_link: bool | None = None,
            advanced: bool | None = None,
        ):
            super().__init__(
                id, display_name, optional, tooltip, lazy, default, socketless, None, force_input,
                extra_dict, raw_link, advanced,
            )  # fmt: skip
            self.multiline = multiline
            self.placeholder = placeholder
            self.dynamic_prompts = dynamic_prompts

        def as_dict(self) -> dict[str, Any]:
            return super().as_dict() | given(
                multiline=self.multiline,
                placeholder=self.placeholder,
                dynamicPrompts=self.dynamic_prompts,
            )


@comfytype(io_type="COMBO")
class Combo(ComfyTypeIO):
    """One choice out of a list."""

    Type = str

    class Input(WidgetInput):
        """`options` may be a function without arguments: it is asked each time the schema is looked at, so a
        list of files stays fresh while the schema itself is built once."""

        def __init__(
            self,
            id: str,
            options: Options | None = None,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            default: Any = None,
            control_after_generate: bool | ControlAfterGenerate | None = None,
            upload: UploadType | None = None,
            image_folder: FolderType | None = None,
            remote: RemoteOptions | None = None,
            socketless: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
            raw_link: bool | None = None,
            advanced: bool | None = None,
        ):
            super().__init__(
                id, display_name, optional, tooltip, lazy, plain(default), socketless, None, None,
                extra_dict, raw_link, advanced,
            )  # fmt: skip
            if isinstance(options, type) and issubclass(options, Enum):
                options = tuple(member.value for member in options)
            self.multiselect = False
            self.options = options
            self.control_after_generate = control_after_generate
            self.upload = upload
            self.image_folder = image_folder
            self.remote = remote

        def as_dict(self) -> dict[str, Any]:
            return (
                super().as_dict()
                | given(
                    multiselect=self.multiselect,
                    options=self.choices(),
                    control_after_generate=plain(self.control_after_generate),
                )
                | ({plain(self.upload): True} if self.upload is not None else {})
                | given(
                    image_folder=plain(self.image_folder),
                    remote=self.remote.as_dict() if self.remote else None,
                )
            )

        def choices(self) -> list[Any] | None:
            """What can be chosen now."""
            options: Any = self.options() if callable(self.options) else self.options
            return None if options is None else list(options)

        @property
        def is_live(self) -> bool:
            return callable(self.options)

        @property
        def is_constant(self) -> bool:
            return super().is_constant and not isinstance(self.options, list)

    class Output(Output):
        def __init__(
            self,
            id: str | None = None,
            display_name: str | None = None,
            options: list[Any] | None = None,
            tooltip: str | None = None,
            is_output_list: bool = False,
        ):
            super().__init__(id, display_name, tooltip, is_output_list)
            self.options = options if options is not None else []


@comfytype(io_type="COMBO")
class MultiCombo(ComfyTypeI):
    """Any number of choices out of a list."""

    Type = list[str]

    class Input(Combo.Input):
        def __init__(
            self,
            id: str,
            options: Options | None = None,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            default: list[Any] | None = None,
            placeholder: str | None = None,
            chip: bool | None = None,
            control_after_generate: bool | ControlAfterGenerate | None = None,
            socketless: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
            raw_link: bool | None = None,
            advanced: bool | None = None,
        ):
            super().__init__(
                id, options, display_name, optional, tooltip, lazy, default, control_after_generate,
                socketless=socketless, extra_dict=extra_dict, raw_link=raw_link, advanced=advanced,
            )  # fmt: skip
            self.multiselect = True
            self.placeholder = placeholder
            self.chip = chip

        def as_dict(self) -> dict[str, Any]:
            multi_select = given(placeholder=self.placeholder, chip=self.chip)
            return super().as_dict() | {"multi_select": multi_select}


@comfytype(io_type="WEBCAM")
class Webcam(ComfyTypeIO):
    """A picture taken with the camera of whoever sits at the browser."""

    Type = str

    class Input(WidgetInput):
        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            default: str | None = None,
            socketless: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
            raw_link: bool | None = None,
            advanced: bool | None = None,
        ):
            super().__init__(
                id, display_name, optional, tooltip, lazy, default, socketless, None, None,
                extra_dict, raw_link, advanced,
            )  # fmt: skip
