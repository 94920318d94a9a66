"""The io types whose values a person draws in the node: colours, boxes, curves, ranges, compositions."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from comfyk.io.base import ComfyTypeI, ComfyTypeIO, WidgetInput, comfytype, given

CurvePoint = tuple[float, float]


class _DrawnInput(WidgetInput):
    """A widget without a socket, unless its author asks for one."""

    def __init__(
        self,
        id: str,
        display_name: str | None = None,
        optional: bool = False,
        tooltip: str | None = None,
        socketless: bool | None = True,
        default: Any = None,
        advanced: bool | None = None,
    ):
        super().__init__(
            id, display_name, optional, tooltip, default=default, socketless=socketless, advanced=advanced
        )


@comfytype(io_type="IMAGECOMPARE")
class ImageCompare(ComfyTypeI):
    """Two pictures with a slider between them."""

    Type = dict

    class Input(WidgetInput):
        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            socketless: bool | None = True,
            advanced: bool | None = None,
        ):
            super().__init__(id, display_name, optional, tooltip, socketless=socketless, advanced=advanced)


@comfytype(io_type="COLOR")
class Color(ComfyTypeIO):
    """`#rrggbb`."""

    Type = str

    class Input(WidgetInput):
        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            socketless: bool | None = True,
            advanced: bool | None = None,
            default: str = "#ffffff",
        ):
            super().__init__(
                id, display_name, optional, tooltip, default=default, socketless=socketless, advanced=advanced
            )


@comfytype(io_type="COLORS")
class Colors(ComfyTypeIO):
    Type = list[str]

    class Input(_DrawnInput):
        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            socketless: bool | None = True,
            default: list[str] | None = None,
            advanced: bool | None = None,
        ):
            default = [] if default is None else default
            super().__init__(id, display_name, optional, tooltip, socketless, default, advanced)


@comfytype(io_type="BOUNDING_BOX")
class BoundingBox(ComfyTypeIO):
    class BoundingBoxDict(TypedDict):
        """In pixels, from the top left."""

        x: int
        y: int
        width: int
        height: int

    Type = BoundingBoxDict

    class Input(_DrawnInput):
        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            socketless: bool | None = True,
            default: dict[str, int] | None = None,
            component: str | None = None,
            force_input: bool | None = None,
        ):
            default = {"x": 0, "y": 0, "width": 512, "height": 512} if default is None else default
            super().__init__(id, display_name, optional, tooltip, socketless, default)
            self.component = component
            self.force_input = force_input

        def as_dict(self) -> dict[str, Any]:
            return super().as_dict() | given(component=self.component or None)


@comfytype(io_type="BOUNDING_BOXES")
class BoundingBoxes(ComfyTypeIO):
    class BoundingBoxWithMetadata(TypedDict):
        x: int
        y: int
        width: int
        height: int
        metadata: dict[str, Any]

    Type = list[BoundingBoxWithMetadata]

    class Input(_DrawnInput):
        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            socketless: bool | None = True,
            default: list[dict[str, Any]] | None = None,
            advanced: bool | None = None,
        ):
            default = [] if default is None else default
            super().__init__(id, display_name, optional, tooltip, socketless, default, advanced)


@comfytype(io_type="CURVE")
class Curve(ComfyTypeIO):
    """A curve through points `(x, y)`, both from 0 to 1."""

    CurvePoint = CurvePoint

    class Input(_DrawnInput):
        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            socketless: bool | None = True,
            default: list[CurvePoint] | None = None,
            advanced: bool | None = None,
        ):
            default = [(0.0, 0.0), (1.0, 1.0)] if default is None else default
            super().__init__(id, display_name, optional, tooltip, socketless, default, advanced)

        def as_dict(self) -> dict[str, Any]:
            points = [list(point) for point in self.default]
            return super().as_dict() | {"default": {"points": points, "interpolation": "monotone_cubic"}}


@comfytype(io_type="RANGE")
class Range(ComfyTypeIO):
    """A range of levels `{"min", "max"}`, with an optional `midpoint`."""

    class Input(_DrawnInput):
        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            socketless: bool | None = True,
            default: dict[str, float] | None = None,
            display: str | None = None,
            gradient_stops: list[Any] | None = None,
            show_midpoint: bool | None = None,
            midpoint_scale: str | None = None,
            value_min: float | None = None,
            value_max: float | None = None,
            advanced: bool | None = None,
        ):
            default = {"min": 0.0, "max": 1.0} if default is None else default
            super().__init__(id, display_name, optional, tooltip, socketless, default, advanced)
            self.display = display
            self.gradient_stops = gradient_stops
            self.show_midpoint = show_midpoint
            self.midpoint_scale = midpoint_scale
            self.value_min = value_min
            self.value_max = value_max

        def as_dict(self) -> dict[str, Any]:
            return super().as_dict() | given(
                display=self.display,
                gradient_stops=self.gradient_stops,
                show_midpoint=self.show_midpoint,
                midpoint_scale=self.midpoint_scale,
                value_min=self.value_min,
                value_max=self.value_max,
            )


@comfytype(io_type="COMPOSITOR")
class Compositor(ComfyTypeIO):
    """How a person arranged layers on a canvas."""

    class LayerState(TypedDict):
        version: NotRequired[int]
        canvas: dict[str, Any]
        background: NotRequired[dict[str, Any]]
        inputs: NotRequired[list[str]]
        order: NotRequired[list[int]]
        layers: list[dict[str, Any]]

    Type = LayerState

    class Input(_DrawnInput):
        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            socketless: bool | None = True,
            default: dict[str, Any] | None = None,
            advanced: bool | None = None,
        ):
            default = {} if default is None else default
            super().__init__(id, display_name, optional, tooltip, socketless, default, advanced)
